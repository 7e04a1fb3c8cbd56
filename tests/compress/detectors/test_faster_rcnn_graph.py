"""The atlas in an exported graph: what it is made of, and what the other precisions make of it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from compress.detectors.parts.nms_op import onnx_translations
from export.checks.parity import Gate, compare_detections
from export.detections import select_detections
from export.engine import open_engine
from export.graph.to_onnx import export_onnx
from export.pictures.images import to_input, to_tensor
from export.precision.fp16 import cast_half
from export.precision.int8 import Flavour, Int8Settings, quantize_int8
from export.predictions import predict
from tests.compress.detectors.small import small_detector, spread
from tests.export.client import Client, picture
from tests.export.test_client import require_same
from tests.manifests import make_manifest

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SIZE = (160, 192)
CANVASES = list(np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    torch.manual_seed(0)
    detector = spread(small_detector("faster_rcnn", SIZE)).eval()
    with torch.no_grad():  # scores and boxes that differ from proposal to proposal
        detector.head.roi.box_predictor.cls_score.weight.mul_(20)
        detector.head.roi.box_predictor.bbox_pred.weight.mul_(20)
    manifest = make_manifest("faster_rcnn", SIZE, "abc", dynamic_batch=True)
    sample = to_tensor(CANVASES[:2])
    folder = tmp_path_factory.mktemp("fp32")
    path = export_onnx(detector, manifest, folder, sample, translations=onnx_translations())
    return detector, path


def test_a_client_written_from_the_bundles_readme_finds_what_predict_finds(exported, tmp_path):
    (_, path), seen = exported, 0
    for number, (width, height) in enumerate([(192, 160), (401, 300), (90, 120), (640, 31)]):
        cells = np.random.default_rng(number).integers(0, 256, (7, 9, 3), dtype=np.uint8)
        pixels = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
        pixels.save(tmp_path / f"{number}.png")
        with open_engine(path, threads=1) as engine:
            ours = predict(engine, tmp_path / f"{number}.png", 0.05)
        theirs = Client(path).detect(picture(tmp_path / f"{number}.png"), 0.05)
        require_same(theirs, ours, f"{width} x {height}")
        seen += len(theirs)
    assert seen > 20


def makers(path: Path):
    model = onnx.load(str(path))
    (pool,) = [node for node in model.graph.node if node.op_type == "RoiAlign"]
    return model, pool, {name: node for node in model.graph.node for name in node.output}


def detections(path: Path):
    with open_engine(path, threads=1) as engine:
        manifest = engine.manifest
        found = engine.candidates(to_input(CANVASES, manifest.input))
    return select_detections(found, manifest.nms, 0.01)


def test_all_levels_are_pooled_by_one_node_at_any_batch(exported) -> None:
    detector, path = exported
    model, _, _ = makers(path)
    assert not {node.op_type for node in model.graph.node} & {"NonZero", "Loop", "If"}
    with open_engine(path, threads=1) as engine:
        for count in (1, 4):
            images = to_input(CANVASES[:count], engine.manifest.input)
            found = engine.candidates(images)
            with torch.no_grad():
                wanted = detector.candidates(torch.from_numpy(images))
            assert found.scores == pytest.approx(wanted.scores.numpy(), abs=1e-5)


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-trt"])
def test_the_atlas_and_its_boxes_stay_float32_in_other_precisions(
    exported, tmp_path, precision
) -> None:
    _, source = exported
    if precision == "fp16":
        path = cast_half(source, CANVASES, tmp_path / "half")
    else:
        flavour: Flavour = "cpu" if precision == "int8" else "tensorrt"
        path = quantize_int8(source, CANVASES, tmp_path / "int8", Int8Settings(flavour=flavour))
    model, pool, made_by = makers(path)
    values = onnx.shape_inference.infer_shapes(model).graph.value_info
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    atlas, boxes = pool.input[:2]
    assert types[atlas] == types[boxes] == onnx.TensorProto.FLOAT
    # levels have ranges of their own, so none may be forced on the map of all of them
    assert made_by[atlas].op_type == "Concat"
    parity = compare_detections(detections(source), detections(path))
    assert parity.matched > 50
    if precision == "fp16":  # of INT8, weights that saw no training say nothing
        assert parity.ok(Gate(0.03, 2.0, 0.02))
