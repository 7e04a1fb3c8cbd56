"""A teacher that was run elsewhere: its COCO results as boxes of the data's pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.data.image_set import ImageSet, LabeledImage
from benchmarks.data.parts.box_format import misfit
from compress.batch import ScoredBoxes
from compress.teaching.boxes import TaughtBoxes
from compress.teaching.classes import At, ClassMatch, match_classes
from compress.teaching.config import PredictionsTeacher
from compress.teaching.predictions.picture_keys import Found, Place, find_pictures
from compress.teaching.predictions.results import Results, read_results
from export.errors import DataError, counted, shown


@dataclass(frozen=True)
class Predicted:
    """What a file of results says of the data's pictures.

    Attributes:
        taught: boxes by the key of the set.
        match: the classes of both sides, matched.
        lines: what was read and what was left out.
        warnings: what looks wrong.
    """

    taught: Mapping[str, TaughtBoxes]
    match: ClassMatch
    lines: tuple[str, ...]
    warnings: tuple[str, ...]


def read_predictions(config: PredictionsTeacher, sets: Mapping[str, ImageSet], at: At) -> Predicted:
    """Read the results that a teacher's settings name.

    Args:
        config: settings.
        sets: the data's pictures: "train", "unlabeled", "val"; all have the student's classes.
        at: gives the place of one of the settings, for messages.

    Raises:
        DataError: the file is missing, damaged or no COCO results, or of other pictures or classes.
        RecipeError: no class of the teacher is one of the student's.
    """
    results = read_results(config.files, config.annotations)
    first = next(iter(sets.values()))
    names, labels = _teacher_classes(results, config, first, at)
    match = match_classes(first.classes, names, config.class_map, at)
    found = find_pictures(results, sets)
    rows = _rows_by_picture(results, found)
    warning = _check_form(results, found, sets)
    counts = _Counts(len(results.scores))
    chooser = _Chooser(results, labels, match, config, counts)
    taught = {
        key: TaughtBoxes.of_pictures(
            [chooser.of(one, rows.get(Place(key, i), ())) for i, one in enumerate(images.images)],
            match.student,
            results.source,
        )
        for key, images in sets.items()
    }
    counts.elsewhere = sum(key not in found.places for key in results.pictures)
    if not any(len(boxes.scores) for key, boxes in taught.items() if key != "val"):
        raise DataError(
            f"{counts.lines(results, found)[0]}. No box of a training picture is left, so the "
            "student would learn that all of them are empty; give results of these pictures"
        )
    lines = [*counts.lines(results, found), *match.lines()]
    empty = [_without_boxes(key, rows, images) for key, images in sets.items()]
    warnings = [line for line in (warning, *empty) if line]
    return Predicted(taught, match, tuple(lines), tuple(warnings))


@dataclass
class _Counts:
    """What became of the boxes of a file."""

    written: int
    elsewhere: int = 0  # of pictures that are not the data's
    no_area: int = 0
    low: int = 0
    other_class: int = 0
    beyond: int = 0  # more than max_boxes of a picture

    def lines(self, results: Results, found: Found) -> list[str]:
        """Say what was read and what was left out."""
        left = {
            "of other pictures": self.elsewhere,
            "outside their picture or without area": self.no_area,
            "below score_threshold": self.low,
            "of classes that the student does not have, or the same object twice": self.other_class,
            "beyond max_boxes of their picture": self.beyond,
        }
        said = ", ".join(f"{count} {why}" for why, count in left.items() if count)
        pictures = counted(len(found.places), "picture")
        return [
            f"{results.source}: {counted(self.written, 'box', 'boxes')}, {pictures} found by "
            f"{found.how}" + (f"; left out: {said}" if said else "")
        ]


def _teacher_classes(
    results: Results, config: PredictionsTeacher, images: ImageSet, at: At
) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Return the teacher's class names, and the label of each box among them."""
    if config.categories is not None:
        known = {one: name for name, one in config.categories.items()}
        said = at("categories")
    elif results.categories:
        known = dict(results.categories)
        said = str(config.annotations or results.source)
    else:
        known = dict(zip(images.category_ids, images.classes, strict=True))
        said = f"the data ({images.source})"
    used = np.unique(results.category_ids).tolist()
    unknown = [one for one in used if one not in known]
    if unknown:
        raise DataError(
            f"{results.source}: of other classes: category_id {shown(unknown[:8])[1:-1]} "
            f"{'is' if len(unknown) == 1 else 'are'} not among the ids of {said}, "
            f"{_ids(known)}. Say what the ids mean with {at('categories')}, "
            f"{{name: {unknown[0]}, ...}}, or with annotations, a COCO file that has them"
        )
    ids = sorted(known)
    label_of = {category: label for label, category in enumerate(ids)}
    table = np.array([label_of[one] for one in used], dtype=np.int64)
    labels = table[np.searchsorted(used, results.category_ids)]
    return tuple(known[one] for one in ids), labels


def _ids(known: Mapping[int, str], most: int = 6) -> str:
    listed = [f"{one} {shown(known[one])}" for one in sorted(known)]
    rest = f", ... ({len(listed)} in all)" if len(listed) > most else ""
    return ", ".join(listed[:most]) + rest


def _rows_by_picture(results: Results, found: Found) -> dict[Place, list[int]]:
    """Return the boxes of each picture of the data, by their row in the results."""
    rows: dict[Place, list[int]] = {}
    for row, key in enumerate(results.pictures):
        for place in found.places.get(key, ()):
            rows.setdefault(place, []).append(row)
    return rows


def _check_form(results: Results, found: Found, sets: Mapping[str, ImageSet]) -> str | None:
    """Return what looks wrong with the boxes of the data's pictures.

    Raises:
        DataError: they are written in another form than [x, y, width, height].
    """
    rows, sizes = [], []
    for row, key in enumerate(results.pictures):
        for place in found.places.get(key, ())[:1]:
            image = sets[place.of_set].images[place.number]
            rows.append(row)
            sizes.append((image.width, image.height))
    wrong = misfit("xywh", results.boxes[rows], np.array(sizes))
    if wrong is None:
        return None
    if wrong.is_another_form:
        raise DataError(f"{results.source}: {wrong.sentence}; write the boxes again")
    return f"{results.source}: {wrong.sentence}"


@dataclass(frozen=True)
class _Chooser:
    """Chooses the boxes of a picture that are kept, and counts the others."""

    results: Results
    labels: NDArray[np.int64]
    match: ClassMatch
    config: PredictionsTeacher
    counts: _Counts

    def of(self, image: LabeledImage, rows: Sequence[int]) -> ScoredBoxes:
        """Return the boxes of one picture, given their rows in the results."""
        chosen, counts, most = np.array(rows, dtype=np.int64), self.counts, self.config.max_boxes
        scores = self.results.scores[chosen]
        boxes = np.clip(self.results.boxes[chosen], 0, [image.width, image.height] * 2)
        has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        high = scores >= self.config.score_threshold
        kept = has_area & high
        counts.no_area += int((~has_area).sum())
        counts.low += int((has_area & ~high).sum())
        found = self.match.in_students_classes(boxes[kept], self.labels[chosen[kept]], scores[kept])
        counts.other_class += int(kept.sum()) - len(found.scores)
        counts.beyond += max(0, len(found.scores) - most)
        return ScoredBoxes(*(values[:most] for values in found))


def _without_boxes(key: str, rows: Mapping[Place, list[int]], images: ImageSet) -> str | None:
    """Say how many pictures of a set have no box; results do not tell why."""
    empty = [i for i in range(len(images)) if Place(key, i) not in rows]
    if not empty:
        return None
    return (
        f"{len(empty)} of {counted(len(images), 'picture')} of {key} have no box in the results "
        f"({images.images[empty[0]].file_name}{', ...' if len(empty) > 1 else ''}): taken as "
        "pictures on which the teacher found nothing. If it was not run on them, run it"
    )
