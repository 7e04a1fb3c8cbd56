import json
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.evaluate import predict, save_predictions
from benchmarks.data.image_set import coco_ground_truth
from export.detections import Candidates
from export.errors import DataError, ExportError
from tests.benchmarks.bright_boxes import BrightEngine, bright_manifest, bright_set


def test_a_detector_that_is_right_has_an_ap_of_one():
    images = bright_set()
    results = predict(BrightEngine(), images)
    assert coco_map(results, coco_ground_truth(images)).values["AP"] == pytest.approx(1)


def test_boxes_are_xywh_pixels_of_the_photograph_and_not_of_the_input():
    # 64 x 48 into 32 x 32 halves the picture: the input box is (2, 3, 12, 15).
    results = predict(BrightEngine(bright_manifest(side=32)), bright_set(1))
    assert results == [
        {"image_id": 100, "category_id": 7, "bbox": [4, 6, 20, 24], "score": pytest.approx(0.9)}
    ]


@pytest.mark.parametrize("batch", [1, 2, 3, 8])
def test_the_batch_size_changes_no_detection_and_no_order(batch):
    engine = BrightEngine()
    assert predict(engine, bright_set(), batch=batch) == predict(BrightEngine(), bright_set())
    assert sum(engine.batches) == 5
    assert max(engine.batches) == min(batch, 5)


def test_a_static_graph_is_fed_one_picture_at_a_time():
    engine = BrightEngine(bright_manifest(dynamic_batch=False))
    predict(engine, bright_set(3), batch=8)
    assert engine.batches == [1, 1, 1]


def test_only_the_pictures_asked_for_are_predicted():
    results = predict(BrightEngine(), bright_set(), indices=[4, 1])
    assert [result["image_id"] for result in results] == [104, 101]


def test_categories_follow_the_class_name_when_the_model_orders_them_otherwise():
    plain = predict(BrightEngine(), bright_set())
    turned = predict(BrightEngine(bright_manifest(classes=("green", "red"))), bright_set())
    assert turned == plain
    assert [result["category_id"] for result in plain[:2]] == [7, 3]


def test_classes_that_differ_are_refused_by_name():
    engine = BrightEngine(bright_manifest(classes=("red", "blue")))
    with pytest.raises(DataError, match=r"only the model has \['blue'\].*\['green'\]"):
        predict(engine, bright_set())


def test_a_graph_that_gives_nan_is_named_with_the_picture():
    class Broken(BrightEngine):
        def candidates(self, images) -> Candidates:
            found = super().candidates(images)
            return replace(found, scores=np.full_like(found.scores, np.nan))

    with pytest.raises(ExportError, match=r"student \(numpy, fp32\).*bright/0"):
        predict(Broken(), bright_set(1))


def test_a_picture_that_cannot_be_read_ends_the_prediction_at_once():
    def draw(index: int):
        raise DataError(f"picture {index} is broken")

    with pytest.raises(DataError, match="picture 0 is broken"):
        predict(BrightEngine(), replace(bright_set(), draw=draw))


def test_ap_from_the_saved_file_is_ap_from_memory(tmp_path):
    generator = np.random.default_rng(0)
    images = bright_set()
    truth = coco_ground_truth(images)
    results = predict(BrightEngine(), images)
    for result in results:
        result["bbox"] = [edge + float(generator.normal(0, 2)) for edge in result["bbox"]]
        result["score"] = float(generator.random())
    save_predictions(results, tmp_path / "deep" / "student.json")
    saved = json.loads((tmp_path / "deep" / "student.json").read_text())
    assert coco_map(saved, truth) == coco_map(results, truth)
    assert 0 < (coco_map(saved, truth).values["AP"] or 0) < 1
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["student.json"]
