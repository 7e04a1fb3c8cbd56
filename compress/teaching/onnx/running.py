"""Run a detector over pictures once: its boxes in the student's classes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from benchmarks.data.image_set import ImageSet, read_photograph
from compress.batch import ScoredBoxes
from compress.console import Progress
from compress.teaching.boxes import BoxLimits, TaughtBoxes
from compress.teaching.classes import ClassMatch
from compress.teaching.onnx.detector import BoxDetector
from export.detections import Detections
from export.engine import Placed, detect_placed
from export.pictures.ahead import decoded_ahead

_BATCH = 8  # pictures of a pass, where the file takes any number


def taught_by(
    detector: BoxDetector,
    images: ImageSet,
    match: ClassMatch,
    limits: BoxLimits,
    *,
    progress: Progress | None = None,
) -> TaughtBoxes:
    """Run an entered detector over all pictures of a set; `progress` shows how many are done.

    Raises:
        DataError: a picture cannot be read.
        ExportError: the detector does not run, or gives what is not finite.
    """
    found: list[ScoredBoxes] = []
    for _, boxes in scored_boxes(detector, images, match, range(len(images)), limits):
        found.append(boxes)
        if progress is not None:
            progress.update(len(found))
    manifest = detector.engine.manifest
    source = f"{detector.format} {manifest.artifact or manifest.model}"
    return TaughtBoxes.of_pictures(found, match.student, source)


def scored_boxes(
    detector: BoxDetector,
    images: ImageSet,
    match: ClassMatch,
    indices: Sequence[int],
    limits: BoxLimits,
) -> Iterator[tuple[int, ScoredBoxes]]:
    """Yield the boxes of the pictures at `indices`, in that order, in their own pixels.

    The detector is entered already. Pictures are decoded ahead in threads.

    Raises:
        DataError: a picture cannot be read.
        ExportError: the detector does not run, or gives what is not finite.
    """
    engine = detector.engine
    size = _BATCH if engine.manifest.input.dynamic_batch else 1
    for members, placed in _placed(detector, images, indices, size):
        found = detect_placed(engine, placed, limits.score_threshold)
        for index, one in zip(members, found, strict=True):
            yield index, _in_students_classes(one, match, limits.max_boxes)


def _in_students_classes(found: Detections, match: ClassMatch, most: int) -> ScoredBoxes:
    boxes = match.in_students_classes(found.boxes, found.labels, found.scores)
    return ScoredBoxes(*(values[:most] for values in boxes))


def _placed(
    detector: BoxDetector, images: ImageSet, indices: Sequence[int], size: int
) -> Iterator[tuple[list[int], list[Placed]]]:
    depth = detector.engine.manifest.input.bit_depth
    images = replace(images, bit_depth=images.bit_depth if depth == 16 else depth)

    def decode(index: int) -> Placed:
        return detector.place(read_photograph(images, index))

    return decoded_ahead(indices, size, decode)
