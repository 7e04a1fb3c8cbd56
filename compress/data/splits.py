"""Operations on a whole split: choose classes, choose pictures, remove labels."""

import difflib
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.annotations import Tally
from benchmarks.data.image_set import ImageSet, LabeledImage
from benchmarks.data.parts.class_names import checked_name
from compress.data.augment import AugmentConfig
from export.errors import DataError, counted
from export.pictures.images import Letterbox, fit

_SEEN = 1.0  # input pixels; below this a box covers no pixel of the input


def limited(image_set: ImageSet, limit: int | None, seed: int) -> ImageSet:
    """Return the first `limit` pictures of a seeded permutation; all without one.

    Raises:
        DataError: there are fewer pictures.
    """
    if limit is None:
        return image_set
    return image_set.subset(chosen(len(image_set), limit, seed, image_set.name))


def chosen(count: int, limit: int | None, seed: int, role: str) -> list[int]:
    """Return the indices of the pictures, out of `count`, that a limit chooses.

    Raises:
        DataError: the limit of the split in this `role` is larger.
    """
    if limit is not None and limit > count:
        raise DataError(
            f"data.{role}.limit: {limit}, and there {'is' if count == 1 else 'are'} "
            f"{counted(count, 'picture')} to choose from; set at most {count}, or remove limit"
        )
    if limit is None or limit == count:
        return list(range(count))
    order: list[int] = np.random.default_rng(seed).permutation(count)[:limit].tolist()
    return order


def select_classes(image_set: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    """Keep only `classes`, in that order; objects of others are left out, with a note.

    Raises:
        DataError: the set lacks a class, or a class is named twice.
    """
    classes = tuple(checked_name(name, "data.classes") for name in classes)
    if len(set(classes)) < len(classes):
        raise DataError(f"data.classes: a class is named twice: {', '.join(classes)}")
    if not classes:
        raise DataError("data.classes: names no class; name those to use, or remove the key")
    for name in classes:
        if name not in image_set.classes:
            near = difflib.get_close_matches(name, image_set.classes, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"data.classes: {name!r} is not a class of {image_set.source}{hint} "
                f"It has: {', '.join(image_set.classes)}"
            )
    if classes == image_set.classes:
        return image_set
    old = [image_set.classes.index(name) for name in classes]
    new_label = np.full(len(image_set.classes), -1, dtype=np.int64)
    new_label[old] = np.arange(len(old))
    images: list[LabeledImage] = []
    left_out = 0
    for image in image_set.images:
        labels = new_label[image.labels]
        keep = labels >= 0
        left_out += int((~keep).sum())
        images.append(
            replace(
                image,
                boxes=image.boxes[keep],
                labels=labels[keep],
                crowd=image.crowd[keep],
                areas=image.areas[keep],
            )
        )
    ids = tuple(image_set.category_ids[label] for label in old)
    reason = "of a class that data.classes leaves out"
    return replace(
        image_set,
        classes=classes,
        category_ids=ids,
        images=tuple(images),
        notes=(*image_set.notes, f"{counted(left_out, 'box', 'boxes')} dropped: {reason}")
        if left_out
        else image_set.notes,
        tally=_less(image_set.tally, reason, left_out) if left_out else image_set.tally,
    )


def _less(tally: Tally, reason: str, left_out: int) -> Tally:
    """Return the counts after `left_out` more objects were left out, for `reason`."""
    dropped = {**tally.dropped, reason: left_out}
    return replace(tally, dropped=dropped, kept=tally.kept - left_out)


def without_labels(image_set: ImageSet) -> ImageSet:
    """Return the same pictures without objects."""
    images = tuple(
        LabeledImage(
            image.id,
            image.file_name,
            image.width,
            image.height,
            boxes=np.zeros((0, 4)),
            labels=np.zeros(0, dtype=np.int64),
            crowd=np.zeros(0, dtype=np.bool_),
            areas=np.zeros(0),
        )
        for image in image_set.images
    )
    return replace(
        image_set,
        name="unlabeled",
        images=images,
        notes=(),
        tally=Tally(left_out=image_set.tally.left_out),
        warnings=(),
    )


def without_pictures(image_set: ImageSet, others: ImageSet) -> ImageSet:
    """Return the pictures that are not among `others`, compared by file, or by name if drawn."""

    def keys(one: ImageSet) -> list[str]:
        if one.draw is None:
            return [str(path.resolve()) for path in one.paths]
        return [image.file_name for image in one.images]

    taken = set(keys(others))
    return image_set.subset([i for i, key in enumerate(keys(image_set)) if key not in taken])


def same_classes(train: ImageSet, val: ImageSet) -> None:
    """Refuse splits whose class lists differ.

    Raises:
        DataError: naming the classes that only one split has, or the ids that differ.
    """
    if train.classes == val.classes and train.category_ids == val.category_ids:
        return
    only_train = [name for name in train.classes if name not in val.classes]
    only_val = [name for name in val.classes if name not in train.classes]
    if only_train or only_val:
        what = f"only in train: {only_train}; only in val: {only_val}"
    else:
        pairs = zip(train.classes, train.category_ids, strict=True)
        other = dict(zip(val.classes, val.category_ids, strict=True))
        differ = [f"{name} is {i} and {other[name]}" for name, i in pairs if other[name] != i]
        what = f"category ids or order differ: {', '.join(differ[:5]) or 'order'}"
    raise DataError(
        f"train and val have different classes. {what}. Train: {train.source}; val: {val.source}. "
        "Both splits must list the same categories with the same ids."
    )


def refuse_useless(image_set: ImageSet, size: tuple[int, int], augment: AugmentConfig) -> None:
    """Refuse a split without boxes, or with boxes that training and AP ignore.

    Args:
        image_set: named `train` or `val`.
        size: height and width of the letterboxed input, pixels.
        augment: what training does to pictures, and the smallest boxes that it keeps.

    Raises:
        DataError: the split has no box, only crowd boxes, or only boxes that are too small.
    """
    where = f"data.{image_set.name}"
    if all(image.crowd.all() for image in image_set.images):
        crowd = sum(len(image.labels) for image in image_set.images)
        every = "the only box is" if crowd == 1 else f"all {crowd} boxes are"
        what = f"{every} crowd (iscrowd, difficult)" if crowd else "no boxes"
        raise DataError(
            f"{where}: {what} in {image_set.source}; it can be used neither for "
            f"training nor for evaluation{_reasons(image_set)}"
        )
    learnt = image_set.name == "train"
    least = augment.min_box_px if learnt else _SEEN
    key = f"augment.min_box_px ({least:g} px)" if learnt else "one pixel"
    largest, count = 0.0, 0
    for image in image_set.images:
        place = fit(image.width, image.height, *size)
        boxes = image.boxes[~image.crowd]
        sides = (boxes[:, 2:] - boxes[:, :2]) * (place.scale_x, place.scale_y)
        count += len(boxes)
        if learnt:
            sides = sides[_visible(sides, size, augment)] * _zoomed(place, size, augment)
        largest = max(largest, float(sides.min(axis=1).max(initial=0.0)))
        if largest >= least:
            return
    every = "the only box is" if count == 1 else f"all {count} boxes are"
    use = "left out of training" if learnt else "too small to be found"
    raise DataError(
        f"{where}: {every} {use}: of the shorter side, the largest has {largest:.3g} px at "
        f"{size[0]} x {size[1]}{_of_zoom(augment) if learnt else ''}, under {key}, in "
        f"{image_set.source}{_reasons(image_set)}. Correct the boxes, or set a larger "
        "data.image_size"
    )


def _visible(
    sides: NDArray[np.float64], size: tuple[int, int], augment: AugmentConfig
) -> NDArray[np.bool_]:
    """Return of which boxes (n, 2) the smallest zoom may leave enough in view."""
    height, width = size
    share = np.minimum(1.0, (width, height) / np.maximum(sides * augment.scale[0], 1e-9))
    return np.asarray(share.prod(axis=1) >= augment.min_visible)


def _of_zoom(augment: AugmentConfig) -> str:
    low, high = augment.scale
    return "" if low <= 1 <= high else f", zoomed by {low:g} to {high:g} (augment.scale)"


def _zoomed(place: Letterbox, size: tuple[int, int], augment: AugmentConfig) -> float:
    """Return by how much training enlarges the boxes of a picture at most, or more."""
    mosaic = max(size[0] / place.height, size[1] / place.width) if augment.mosaic else 1.0
    return augment.scale[1] * mosaic


def _reasons(image_set: ImageSet) -> str:
    """Return what was left out and what looks wrong, as the rest of a sentence."""
    said = [text for text in (image_set.tally.line(), *image_set.warnings) if text]
    return "".join(f"; {text}" for text in said)
