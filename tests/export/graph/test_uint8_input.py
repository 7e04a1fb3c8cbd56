import numpy as np
import onnx
import pytest

from export.artifact.manifest import read_manifest
from export.backends.onnxruntime.engine import OnnxRuntimeEngine
from export.backends.onnxruntime.settings import OnnxRuntimeConfig
from export.engine import open_engine
from export.errors import ExportError
from export.graph.nms import put_nms_inside
from export.graph.uint8_input import take_uint8
from export.pictures.images import to_input, to_tensor
from export.precision.fp16 import cast_half
from export.precision.int8 import quantize_int8
from tests.export.test_engine import copied
from tests.export.tiny import canvases


@pytest.fixture
def uint8_model(dynamic_model, tmp_path):
    folder = tmp_path / "uint8"
    folder.mkdir()
    path = copied(dynamic_model, folder)
    take_uint8(path)
    return path


def test_uint8_pictures_give_the_very_same_boxes(dynamic_model, uint8_model):
    spec = read_manifest(uint8_model.with_suffix(".json")).input
    pictures = to_input(canvases(3), spec)
    assert pictures.dtype == np.uint8
    assert pictures.shape == (3, 32, 32, 3)
    with open_engine(dynamic_model, threads=1) as one, open_engine(uint8_model, threads=1) as other:
        expected, found = one.candidates(to_tensor(canvases(3))), other.candidates(pictures)
        with pytest.raises(ExportError, match=r"expected \(B, 32, 32, 3\) uint8"):
            other.candidates(to_tensor(canvases(3)))
    assert found.scores.tolist() == expected.scores.tolist()
    assert found.boxes.tolist() == expected.boxes.tolist()
    model = onnx.load(str(uint8_model))
    assert [value.name for value in model.graph.input] == ["images"]
    takers = [node.op_type for node in model.graph.node if "images" in node.input]
    assert takers == ["Cast"]  # TensorRT casts bytes to float, and does nothing else with them


def test_tensorrt_in_onnx_runtime_is_given_the_shapes_of_bytes(uint8_model):
    engine = OnnxRuntimeEngine(uint8_model, OnnxRuntimeConfig(device="tensorrt", max_batch=4))
    assert engine._profile() == ("images:1x32x32x3", "images:1x32x32x3", "images:4x32x32x3")


@pytest.mark.slow
def test_other_precisions_and_nms_are_made_of_it_too(uint8_model, tmp_path):
    put_nms_inside(uint8_model, "matrix", canvases(2))
    half = cast_half(uint8_model, canvases(2), tmp_path / "half")
    int8 = quantize_int8(uint8_model, canvases(4), tmp_path / "int8")
    for path in (half, int8):
        manifest = read_manifest(path.with_suffix(".json"))
        assert (manifest.input.format, manifest.nms.mode) == ("uint8", "matrix")
        with open_engine(path, threads=1) as engine:
            assert engine.candidates(to_input(canvases(2), manifest.input)).boxes.shape[0] == 2


def test_uint8_input_cannot_be_added_twice(uint8_model):
    with pytest.raises(ExportError, match="takes uint8 pictures already"):
        take_uint8(uint8_model)
