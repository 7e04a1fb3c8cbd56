"""Inspect the data before training: counts, balance, sizes, leaks."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from benchmarks.accuracy.ceiling import ceiling_warnings
from benchmarks.data.image_set import ImageSet
from compress.data.config import Data
from compress.data.leaks import Repetitions, find_repetitions, leak_warnings
from export.errors import counted, shown
from export.pictures.images import fit

_FEW_BOXES = 10
_TINY = 8.0  # input pixels; below this a detector finds almost nothing
_SMALL, _MEDIUM = 32.0**2, 96.0**2  # COCO's limits
_DRAWN_COUNTED = 200  # drawn pictures of each split whose boxes are counted; placing takes a while
_NAMED = 3


@dataclass(frozen=True)
class SplitHealth:
    """Contents of one split; sizes are measured in pixels of the letterboxed input.

    Attributes:
        source: description of what was read.
        images: number of pictures.
        images_without_boxes: number of negatives.
        boxes: number of boxes without crowd.
        crowd: number of crowd boxes.
        boxes_per_class: name -> count.
        sizes: COCO's small, medium, large -> count.
        share_under_8_px: share of boxes with a side shorter than 8 pixels.
        dropped_in_training: boxes whose shorter side is under augment.min_box_px.
        aspect: 5th, 50th and 95th percentile of width / height.
        read: numbers of objects in the split's files, kept, and left out.
        notes: what was corrected or left out while reading, counted, with examples.
        suspicions: probable errors in the annotations.
    """

    source: str
    images: int
    images_without_boxes: int
    boxes: int
    crowd: int
    boxes_per_class: dict[str, int]
    sizes: dict[str, int]
    share_under_8_px: float
    dropped_in_training: int
    aspect: tuple[float, ...]
    read: dict[str, object]
    notes: tuple[str, ...]
    suspicions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Health:
    """The state of all splits.

    Attributes:
        format: what was read.
        splits: role -> its state.
        leaks: pairs of sets, "train and val" -> names of pictures that are in both.
        repeated: role -> names of pictures that are in it twice or more.
        warnings: one sentence each; empty if nothing was found.
        division: how a set without splits was divided, in one line; empty where it has splits.
        alike: pairs of sets -> names of pictures of val that may be copies of ones in the other.
    """

    format: str
    splits: dict[str, SplitHealth]
    leaks: dict[str, tuple[str, ...]]
    repeated: dict[str, tuple[str, ...]]
    warnings: tuple[str, ...]
    division: str = ""
    alike: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, object]:
        """Return it as plain JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return it as text, one line per fact."""
        lines = [self.division] if self.division else []
        for role, split in self.splits.items():
            lines += _split_lines(role, split)
        return [*lines, *(f"warning: {warning}" for warning in self.warnings)]


def data_health(
    data: Data, max_detections: int = 100, taught: Mapping[str, Data] | None = None
) -> Health:
    """Inspect every split; look for pictures of val in everything that is learnt from.

    Args:
        data: the student's data.
        max_detections: the most that a model returns, and so cuts AP on fuller pictures.
        taught: data of teachers that see other data than the student, by the teacher's name.

    Raises:
        DataError: picture files that cannot be read at all.
    """
    sets = {"train": data.train, "val": data.val}
    if data.unlabeled is not None:
        sets["unlabeled"] = data.unlabeled
    splits = {role: _split_health(image_set, data) for role, image_set in sets.items()}
    found = find_repetitions(sets, {name: own.train for name, own in (taught or {}).items()})
    measured = {"val": _counted(data.val), "train": _counted(data.train)}
    full = ceiling_warnings(measured, max_detections)
    warnings = (*full, *_warnings(splits, found, data), *_lookalikes(data.classes))
    division = "" if data.division is None else data.division.line()
    return Health(data.format, splits, found.leaks, found.repeated, warnings, division, found.alike)


def data_lines(health: Health, others: Mapping[str, Data]) -> dict[str, list[str]]:
    """Return what was found in the student's data and in teachers' own data, as lines by title."""
    own = {f"data of {name}: {data.format}": teacher_lines(data) for name, data in others.items()}
    return {f"data: {health.format}": health.lines(), **own}


def teacher_lines(data: Data) -> list[str]:
    """Return what a teacher's own data holds as text, one line per fact.

    Of drawn data these are the sources alone: to place thousands of objects takes seconds, and none
    is left out.
    """
    lines = []
    for image_set in (data.train, data.val):
        if image_set.draw is not None:
            lines.append(f"{image_set.name}: {image_set.source}")
            continue
        split = _split_health(image_set, data)
        lines += _split_lines(image_set.name, split)
        lines += [f"warning: {image_set.name}: {text}" for text in split.suspicions]
    return [*lines, *(f"warning: {text}" for text in _lookalikes(data.classes))]


def _split_lines(role: str, split: SplitHealth) -> list[str]:
    lines = [f"{role}: {split.source}"]
    if split.boxes or role != "unlabeled":
        sizes = ", ".join(f"{count} {name}" for name, count in split.sizes.items())
        lines.append(
            f"  {counted(split.boxes, 'box', 'boxes')} ({sizes}; {split.share_under_8_px:.1%} "
            "under 8 px "
            f"at input size), {split.crowd} crowd, "
            f"{counted(split.images_without_boxes, 'image')} without boxes"
        )
        lines.append(f"  per class: {_balance(split.boxes_per_class)}")
    return [*lines, *(f"  {text}" for text in split.notes)]


def _counted(image_set: ImageSet) -> ImageSet:
    """Return the pictures that are looked at: all of those in files, the first of drawn ones."""
    if image_set.draw is None or len(image_set) <= _DRAWN_COUNTED:
        return image_set
    return image_set.subset(range(_DRAWN_COUNTED))


def _split_health(image_set: ImageSet, data: Data) -> SplitHealth:
    images = list(_counted(image_set).images)
    notes = [image_set.tally.line(), *image_set.notes]
    if len(images) < len(image_set):
        notes.append(
            f"boxes are counted on the first {len(images)} of {counted(len(image_set), 'drawing')}"
        )
    sizes = [(image.width, image.height) for image in images]
    places = {size: fit(*size, data.input_height, data.input_width) for size in set(sizes)}
    objects = [len(image.labels) for image in images]
    scale = np.array([(places[s].scale_x, places[s].scale_y) for s in sizes]).reshape(-1, 2)
    boxes = np.concatenate([np.zeros((0, 4)), *(image.boxes for image in images)])
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(image.labels for image in images)])
    crowd = np.concatenate([np.zeros(0, dtype=np.bool_), *(image.crowd for image in images)])
    boxes = (boxes * np.repeat(np.tile(scale, 2), objects, axis=0)).astype(np.float32)[~crowd]
    side = boxes[:, 2:] - boxes[:, :2]
    counts = np.bincount(labels[~crowd], minlength=len(image_set.classes)).tolist()
    area, shorter = side.prod(axis=1), side.min(axis=1, initial=np.inf)
    ratio = side[:, 0] / np.maximum(side[:, 1], 1e-6)
    return SplitHealth(
        source=image_set.source,
        images=len(image_set),
        images_without_boxes=objects.count(0),
        boxes=len(side),
        crowd=int(crowd.sum()),
        boxes_per_class=dict(zip(image_set.classes, counts, strict=True)),
        sizes={
            "small": int((area < _SMALL).sum()),
            "medium": int(((area >= _SMALL) & (area < _MEDIUM)).sum()),
            "large": int((area >= _MEDIUM).sum()),
        },
        share_under_8_px=float((shorter < _TINY).mean()) if len(side) else 0.0,
        dropped_in_training=int((shorter < data.augment.min_box_px).sum()),
        aspect=tuple(np.percentile(ratio, [5, 50, 95]).round(3).tolist()) if len(side) else (),
        read=asdict(image_set.tally),
        notes=tuple(filter(None, notes)),
        suspicions=image_set.warnings,
    )


def _warnings(splits: dict[str, SplitHealth], repetitions: Repetitions, data: Data) -> list[str]:
    train, val = splits["train"], splits["val"]
    missing = [name for name, count in train.boxes_per_class.items() if not count]
    few = {n: c for n, c in train.boxes_per_class.items() if 0 < c < _FEW_BOXES}
    unmeasured = [
        name for name, count in val.boxes_per_class.items() if not count and name not in missing
    ]
    warnings = [f"{role}: {text}" for role, split in splits.items() for text in split.suspicions]
    warnings += leak_warnings(repetitions.leaks, repetitions.alike)
    for role, names in repetitions.repeated.items():
        who = counted(len(names), "picture is", "pictures are")
        warnings.append(f"{who} in {role} more than once ({_some(names)})")
    if missing:
        warnings.append(
            f"train has no box of {counted(len(missing), 'class', 'classes')}: {_some(missing)}"
        )
    if few:
        listed = _some([f"{name} {count}" for name, count in few.items()])
        kinds = counted(len(few), "class", "classes")
        warnings.append(f"train has under {_FEW_BOXES} boxes of {kinds}: {listed}")
    if unmeasured:
        warnings.append(
            f"val has no box of {counted(len(unmeasured), 'class', 'classes')}: {_some(unmeasured)}"
        )
    if train.dropped_in_training:
        warnings.append(
            f"{counted(train.dropped_in_training, 'train box is', 'train boxes are')} under "
            f"{data.augment.min_box_px:g} px at "
            f"{data.input_height} x {data.input_width} and left out of training; a larger "
            "image_size would keep them"
        )
    return warnings


def _lookalikes(classes: Sequence[str]) -> list[str]:
    """Return a warning of class names that differ in letter case or white space alone."""
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault("".join(name.casefold().split()), []).append(shown(name))
    groups = [" and ".join(names) for names in alike.values() if len(names) > 1]
    if not groups:
        return []
    return [
        f"class names differ in letter case or white space alone: {_some(groups)}; each is a class "
        "of its own. If they are one, give all their boxes the same name"
    ]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


def _balance(counts: dict[str, int]) -> str:
    """List up to ten classes, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {count}" for name, count in ranked[:10])
    return shown + (f", and {len(ranked) - 10} more" if len(ranked) > 10 else "")
