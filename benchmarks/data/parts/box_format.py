"""Notice boxes that were written in another form than their format has."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Form = Literal["xywh", "cxcywh", "xyxy"]
Box = tuple[float, float, float, float]
Array = NDArray[np.float64]

_FEWEST, _SHARE = 3, 0.2  # boxes that do not fit, from which on there is a warning
_ALL = 0.99  # of the boxes must fit another form
_TOLERANCE = 1.0  # pixels

_IN_WORDS: dict[Form, str] = {
    "xywh": "x y width height from the top left corner",
    "cxcywh": "x y width height from the centre",
    "xyxy": "corners x1 y1 x2 y2",
}
_TO_CORNERS: dict[Form, Callable[[Array], Array]] = {
    "xywh": lambda v: np.concatenate([v[:, :2], v[:, :2] + v[:, 2:]], axis=1),
    "cxcywh": lambda v: np.concatenate([v[:, :2] - v[:, 2:] / 2, v[:, :2] + v[:, 2:] / 2], axis=1),
    "xyxy": lambda v: v,
}
_FROM_CORNERS: dict[Form, Callable[[Array], Array]] = {
    "xywh": lambda b: np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1),
    "cxcywh": lambda b: np.concatenate([(b[:, :2] + b[:, 2:]) / 2, b[:, 2:] - b[:, :2]], axis=1),
    "xyxy": lambda b: b,
}


class Misfit(NamedTuple):
    """What is wrong with boxes all together.

    Attributes:
        sentence: what was found, and which form they look like.
        is_another_form: whether they fit some other form than the stated one.
    """

    sentence: str
    is_another_form: bool


def format_warning(
    stated: Form, boxes: Sequence[Box], sizes: Sequence[tuple[int, int]]
) -> str | None:
    """Return the sentence of `misfit`, or None."""
    found = misfit(stated, np.array(boxes), np.array(sizes)) if boxes else None
    return None if found is None else found.sentence


def misfit(stated: Form, boxes: Array, sizes: NDArray[np.number]) -> Misfit | None:
    """Say that boxes do not fit their pictures, and which other form they all fit.

    Args:
        stated: the form that the data set's format has.
        boxes: (n, 4) xyxy in pixels, as read by that form, neither clipped nor left out.
        sizes: (n, 2) width and height of the picture of each box.

    Returns:
        None where fewer than a fifth of the boxes do not fit.
    """
    if len(boxes) < _FEWEST:
        return None
    read, size = boxes.astype(np.float64), sizes.astype(np.float64)
    numbers = _FROM_CORNERS[stated](read)
    wrong = ~_fits(read, size)
    if stated != "cxcywh" and (np.abs(read) <= 1).all():
        return Misfit(
            f"all {len(read)} boxes lie within the first pixel; they look like fractions of the "
            "picture's sides, where pixels are expected",
            True,
        )
    if wrong.sum() < max(_FEWEST, _SHARE * len(read)):
        return None
    others = [
        words
        for form, words in _IN_WORDS.items()
        if form != stated and _fits(_TO_CORNERS[form](numbers), size).mean() >= _ALL
    ]
    look = f"; they look like {' or '.join(others)}" if others else ""
    return Misfit(
        f"{int(wrong.sum())} of {len(read)} boxes end outside their picture or have no area{look}, "
        f"where {_IN_WORDS[stated]} is expected",
        bool(others),
    )


def _fits(boxes: Array, size: Array) -> NDArray[np.bool_]:
    inside = (boxes[:, :2] >= -_TOLERANCE) & (boxes[:, 2:] <= size + _TOLERANCE)
    fits: NDArray[np.bool_] = np.all(inside & (boxes[:, 2:] > boxes[:, :2]), axis=1)
    return fits
