import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from benchmarks.accuracy.coco_map import COCO_NAMES, coco_map
from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.image_set import CocoImage, CocoObject, GroundTruth
from export.errors import DataError


def ground_truth(boxes, *, images=2, crowd=(), categories=(1, 2)):
    """`boxes`: (image_id, category_id, x, y, w, h)."""
    return {
        "images": [{"id": i + 1, "width": 200, "height": 200} for i in range(images)],
        "categories": [{"id": c, "name": f"class {c}"} for c in categories],
        "annotations": [
            {
                "id": number,  # COCOeval mistakes id 0 for "not matched"
                "image_id": image,
                "category_id": category,
                "bbox": list(box),
                "area": box[2] * box[3],
                "iscrowd": int(number in crowd),
            }
            for number, (image, category, *box) in enumerate(boxes)
        ],
    }


def result(image, category, *box, score=0.9):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


BOXES = [(1, 1, 10, 10, 20, 20), (1, 2, 50, 50, 60, 60), (2, 1, 5, 5, 100, 100)]


def test_the_ground_truth_itself_has_an_ap_of_one_in_every_size():
    metrics = coco_map([result(*box) for box in BOXES], ground_truth(BOXES))
    for name in ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR100"):
        assert metrics.values[name] == pytest.approx(1), name
    assert metrics.per_class == {"class 1": pytest.approx(1), "class 2": pytest.approx(1)}
    assert tuple(metrics.values) == COCO_NAMES


def test_precision_is_read_at_101_recalls():
    # Objects A, B of one class; detections in order of score: A right, a false one, B right.
    # Precision 1 up to recall 0.5 (51 of the 101 points), then 2/3 (50 points).
    truth = ground_truth([(1, 1, 0, 0, 10, 10), (1, 1, 50, 0, 10, 10)], categories=(1,))
    results = [
        result(1, 1, 0, 0, 10, 10, score=0.9),
        result(1, 1, 0, 90, 10, 10, score=0.8),
        result(1, 1, 50, 0, 10, 10, score=0.7),
    ]
    assert coco_map(results, truth).values["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_at_iou_0_6_counts_up_to_that_threshold():
    # 10 wide moved by 2.5: shared 75, union 125. IoU 0.6 passes 0.50, 0.55, 0.60 of ten.
    values = coco_map(
        [result(1, 1, 2.5, 0, 10, 10)], ground_truth([(1, 1, 0, 0, 10, 10)], categories=(1,))
    ).values
    assert values["AP50"] == pytest.approx(1)
    assert values["AP75"] == 0
    assert values["AP"] == pytest.approx(0.3)


def test_detections_inside_a_crowd_are_neither_right_nor_wrong():
    boxes = [(1, 1, 0, 0, 10, 10), (1, 1, 100, 100, 80, 80)]
    inside = [result(1, 1, 110 + i, 110, 20, 20, score=0.95) for i in range(3)]
    found = [*inside, result(1, 1, 0, 0, 10, 10, score=0.5)]
    with_crowd = coco_map(found, ground_truth(boxes, crowd=(1,), categories=(1,)))
    assert with_crowd.values["AP"] == pytest.approx(1)
    without_crowd = coco_map(found, ground_truth(boxes[:1], categories=(1,)))
    assert without_crowd.values["AP"] == pytest.approx(1 / 4)  # three false ones come first


def test_no_detection_at_all_gives_zero_where_there_are_objects_and_none_elsewhere():
    metrics = coco_map([], ground_truth([(1, 1, 10, 10, 20, 20)]))
    assert metrics.values["AP"] == 0
    assert metrics.values["AR100"] == 0
    assert metrics.values["AP_S"] == 0
    assert metrics.values["AP_L"] is None  # no large object
    assert metrics.per_class == {"class 1": 0, "class 2": None}


def test_detections_of_unknown_pictures_or_categories_are_refused():
    truth = ground_truth(BOXES)
    with pytest.raises(DataError, match="image_id 9"):
        coco_map([result(9, 1, 0, 0, 5, 5)], truth)
    with pytest.raises(DataError, match="category_id 4"):
        coco_map([result(1, 4, 0, 0, 5, 5)], truth)


def test_neither_results_nor_ground_truth_are_changed():
    truth, results = ground_truth(BOXES), [result(*BOXES[0])]
    coco_map(results, truth)
    assert truth == ground_truth(BOXES)
    assert results == [result(*BOXES[0])]


def test_nothing_is_printed(capsys):
    coco_map([result(*BOXES[0])], ground_truth(BOXES))
    assert capsys.readouterr().out == ""


def random_case(seed, images=12, categories=(3, 8, 11)):
    """Ground truth and jittered, partly false detections; annotation ids from 1."""
    generator = np.random.default_rng(seed)
    boxes, results = [], []
    for image in range(1, images + 1):
        for _ in range(generator.integers(0, 6)):
            category = int(generator.choice(categories))
            box = [*generator.uniform(0, 80, 2), *generator.uniform(8, 110, 2)]
            boxes.append((image, category, *map(float, box)))
            for _ in range(generator.integers(0, 4)):
                moved = np.array(box) + generator.normal(0, 4, 4)
                results.append(
                    result(
                        image,
                        category if generator.random() < 0.8 else int(generator.choice(categories)),
                        *map(float, np.maximum(moved, 1)),
                        score=float(generator.random()),
                    )
                )
    truth = ground_truth(boxes, images=images, crowd=(2, 9), categories=categories)
    for annotation in truth["annotations"]:
        annotation["id"] += 1
    return results, truth


@pytest.mark.parametrize("seed", range(3))
def test_the_twelve_numbers_are_those_of_a_plain_pycocotools_run(seed):
    results, truth = random_case(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = truth
        reference.createIndex()
        judge = COCOeval(reference, reference.loadRes([dict(r) for r in results]), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    expected = [None if value == -1 else value for value in judge.stats]
    metrics = coco_map(results, truth, judge="pycocotools")
    assert list(metrics.values.values()) == expected
    defined = [value for value in metrics.per_class.values() if value is not None]
    assert math.fsum(defined) / len(defined) == pytest.approx(metrics.values["AP"])


def test_the_faster_judge_gives_pycocotools_twelve_numbers() -> None:
    rng = np.random.default_rng(5)
    images: list[CocoImage] = [
        {"id": i, "file_name": f"{i}.jpg", "width": 300, "height": 300} for i in range(12)
    ]
    annotations: list[CocoObject] = []
    results: list[CocoResult] = []
    for image in range(11):  # the last one has no object
        for number in range(rng.integers(1, 8)):
            x, y = rng.uniform(0, 150, 2)
            w, h = rng.uniform(4, 150, 2)
            box = [float(v) for v in (x, y, w, h)]
            crowd, category = int(number == 3), int(rng.integers(1, 4))
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3] * 0.8,
                    "iscrowd": crowd,
                }
            )
            for _ in range(3):
                moved = (np.array(box) + rng.normal(0, 4, 4)).clip(1).tolist()
                score = float(rng.choice([0.2, 0.5, 0.9]))  # many ties
                results.append(
                    {"image_id": image, "category_id": category, "bbox": moved, "score": score}
                )
    truth: GroundTruth = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": str(i)} for i in range(1, 5)],
    }
    for found in (results, results[:1], []):
        slow = coco_map(found, truth, judge="pycocotools")
        fast = coco_map(found, truth, judge="faster_coco_eval")
        for name, value in slow.values.items():
            assert fast.values[name] == (None if value is None else pytest.approx(value, abs=1e-12))
        assert fast.per_class.keys() == slow.per_class.keys()
