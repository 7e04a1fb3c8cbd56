"""AP of a teacher's boxes, on labelled pictures."""

from collections.abc import Sequence

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.evaluate import coco_results
from benchmarks.accuracy.metric import CocoResult, MetricValues
from benchmarks.data.image_set import ImageSet, coco_ground_truth
from compress.teaching.boxes import TaughtBoxes
from export.detections import Detections


def results_of(taught: TaughtBoxes, images: ImageSet) -> list[CocoResult]:
    """Return the boxes as COCO results of the set that they were found on."""
    known = dict(zip(images.classes, images.category_ids, strict=True))
    categories: Sequence[int | None] = [known.get(name) for name in taught.classes]
    found: list[CocoResult] = []
    for index, image in enumerate(images.images):
        boxes, labels, scores = (values.numpy() for values in taught.of(index))
        found += coco_results(Detections(boxes, scores, labels), image.id, categories)
    return found


def accuracy_of(taught: TaughtBoxes, images: ImageSet) -> MetricValues:
    """Compute COCO's metrics of the boxes; classes that the teacher lacks count as missed."""
    return coco_map(results_of(taught, images), coco_ground_truth(images))
