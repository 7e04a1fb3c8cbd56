"""Small labelled sets without files, for tests that never decode."""

from collections.abc import Sequence

import numpy as np

from benchmarks.data.image_set import ImageSet, LabeledImage


def labeled_set(
    files: Sequence[str],
    *,
    name: str = "train",
    first_id: int = 1,
    size: tuple[int, int] = (100, 80),
    classes: Sequence[str] = ("person", "car"),
    category_ids: Sequence[int] = (1, 2),
) -> ImageSet:
    """A set of pictures of (width, height) pixels, one 10 x 10 object of class 0 in each."""
    images = tuple(
        LabeledImage(
            first_id + index,
            file,
            *size,
            boxes=np.array([[20.0, 20.0, 30.0, 30.0]]),
            labels=np.array([0]),
            crowd=np.array([False]),
            areas=np.array([100.0]),
        )
        for index, file in enumerate(files)
    )
    return ImageSet(name, f"{name} of a test", tuple(classes), tuple(category_ids), images)
