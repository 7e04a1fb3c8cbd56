"""The AP of a perfect detector under limits on detections, held to pycocotools."""

from collections.abc import Sequence

import numpy as np
import pytest

from benchmarks.accuracy.ceiling import ceiling_warnings, fullness
from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.image_set import ImageSet, LabeledImage, coco_ground_truth


def image_set(*pictures: Sequence[int], crowds: int = 0) -> ImageSet:
    """Return pictures whose objects have these labels, one beside the other; and crowds."""
    images = []
    for number, labels in enumerate(pictures):
        count = len(labels) + crowds
        left = 3.0 * np.arange(count)
        boxes = np.stack([left, np.zeros(count), left + 2, np.full(count, 2.0)], axis=1)
        images.append(
            LabeledImage(
                id=number + 1,
                file_name=f"{number}.png",
                width=3 * count + 3,
                height=4,
                boxes=boxes,
                labels=np.array([*labels, *[0] * crowds], dtype=np.int64),
                crowd=np.array([False] * len(labels) + [True] * crowds, dtype=bool),
                areas=np.full(count, 4.0),
            )
        )
    return ImageSet("val", "a set", ("disk", "ring"), (1, 2), images)


def judged(images: ImageSet, most: int) -> float | None:
    """AP of the truth itself, at most `most` boxes a picture, by pycocotools; `ring` first."""
    results: list[CocoResult] = []
    for image in images.images:
        order = sorted(np.flatnonzero(~image.crowd).tolist(), key=lambda i: -image.labels[i])
        for index in order[:most]:
            x, y, right, lower = image.boxes[index].tolist()
            results.append(
                {
                    "image_id": image.id,
                    "category_id": int(image.labels[index]) + 1,
                    "bbox": [x, y, right - x, lower - y],
                    "score": 0.9,
                }
            )
    return coco_map(results, coco_ground_truth(images)).values["AP"]


@pytest.mark.parametrize(
    ("pictures", "most"),
    [
        ([[0] * 144] * 2, 100),  # a class above both limits
        ([[0] * 144, [0] * 3], 200),  # above COCO's alone
        ([[0] * 90 + [1] * 54, [0]], 100),  # above the model's alone
        ([[0] * 130 + [1] * 20, [1] * 5], 120),
        ([[0] * 7 + [1] * 2, []], 5),
    ],
)
def test_it_is_what_pycocotools_gives_the_truth_itself(
    pictures: list[list[int]], most: int
) -> None:
    images = image_set(*pictures)
    assert fullness(images, most).perfect_ap(most) == pytest.approx(judged(images, most), abs=1e-9)
    assert len(ceiling_warnings({"val": images}, most)) == 1


def test_a_set_within_the_limits_has_no_warning_and_crowds_count_as_nothing() -> None:
    for images in (image_set([0] * 100), image_set([0] * 100, crowds=50), image_set([])):
        assert fullness(images, 100).perfect_ap(100) == 1.0
        assert ceiling_warnings({"val": images}, 100) == []


def test_the_warning_names_the_pictures_the_ceiling_and_the_setting() -> None:
    one_class, two = image_set(*[[0] * 144] * 8), image_set([0] * 90 + [1] * 54, [0])
    within = image_set([0])
    assert ceiling_warnings({"val": one_class, "train": within}, 100) == [
        "val: 8 of 8 pictures hold more than 100 objects (the fullest 144), which is the most that "
        "a model returns, so a perfect detector has AP 69.3 there; raise export.max_detections "
        "(AP then ends at 69.3: COCO's AP counts 100 detections of one class and picture)"
    ]
    (line,) = ceiling_warnings({"train": two, "val": within}, 100)
    assert line.startswith("train: 1 of 2 pictures hold more than 100 objects (the fullest 144), ")
    assert line.endswith(
        "raise export.max_detections. The AP of 8-bit artifacts is checked on training pictures"
    )
    (line,) = ceiling_warnings({"val": image_set([0] * 144)}, 300)
    assert line == (
        "val: 1 of 1 picture holds more than 100 objects of one class: COCO's AP counts 100 "
        "detections of one class and picture, so a perfect detector has AP 69.3 there"
    )
