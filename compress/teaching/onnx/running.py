"""Run a detector over pictures once: its boxes in the student's classes."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from benchmarks.data.image_set import ImageSet, read_photograph
from compress.batch import ScoredBoxes
from compress.console import Progress
from compress.teaching.boxes import TaughtBoxes
from compress.teaching.classes import ClassMatch
from compress.teaching.onnx.detector import OnnxDetector
from export.detections import Detections
from export.engine import Placed, detect_placed

_BATCH = 8  # pictures of a pass, where the file takes any number


def taught_by(
    detector: OnnxDetector,
    images: ImageSet,
    match: ClassMatch,
    *,
    score_threshold: float,
    max_boxes: int,
    progress: Progress | None = None,
) -> TaughtBoxes:
    """Run an entered detector over all pictures of a set; `progress` shows how many are done.

    Raises:
        DataError: a picture cannot be read.
        ExportError: the detector does not run, or gives what is not finite.
    """
    found: list[ScoredBoxes] = []
    for _, boxes in scored_boxes(
        detector,
        images,
        match,
        range(len(images)),
        score_threshold=score_threshold,
        max_boxes=max_boxes,
    ):
        found.append(boxes)
        if progress is not None:
            progress.update(len(found))
    manifest = detector.engine.manifest
    source = f"{detector.format} {manifest.artifact or manifest.model}"
    return TaughtBoxes.of_pictures(found, match.student, source)


def scored_boxes(
    detector: OnnxDetector,
    images: ImageSet,
    match: ClassMatch,
    indices: Sequence[int],
    *,
    score_threshold: float,
    max_boxes: int,
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
        for index, one in zip(members, detect_placed(engine, placed, score_threshold), strict=True):
            yield index, _in_students_classes(one, match, max_boxes)


def _in_students_classes(found: Detections, match: ClassMatch, most: int) -> ScoredBoxes:
    boxes = match.in_students_classes(found.boxes, found.labels, found.scores)
    return ScoredBoxes(*(values[:most] for values in boxes))


def _placed(
    detector: OnnxDetector, images: ImageSet, indices: Sequence[int], size: int
) -> Iterator[tuple[list[int], list[Placed]]]:
    depth = detector.engine.manifest.input.bit_depth
    images = replace(images, bit_depth=images.bit_depth if depth == 16 else depth)

    def decode(index: int) -> Placed:
        return detector.place(read_photograph(images, index))

    workers = min(4, os.cpu_count() or 1)
    groups = deque(list(indices[start : start + size]) for start in range(0, len(indices), size))
    pending: deque[tuple[list[int], list[Future[Placed]]]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        try:
            while groups or pending:
                while groups and len(pending) < 2 + workers // size:
                    members = groups.popleft()
                    pending.append((members, [pool.submit(decode, index) for index in members]))
                members, futures = pending.popleft()
                yield members, [future.result() for future in futures]
        finally:  # do not wait for pictures that are no longer needed
            pool.shutdown(wait=False, cancel_futures=True)
