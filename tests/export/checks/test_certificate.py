import shutil

import pytest

from export.artifact.manifest import file_sha256, read_manifest, write_manifest
from export.checks.certificate import certify, contradiction
from export.errors import ExportError
from export.precision.int8 import Int8Settings, quantize_int8
from tests.export.tiny import canvases


def renamed(model, folder, precision):
    folder.mkdir()
    path = folder / "model.onnx"
    shutil.copy(model, path)
    manifest = read_manifest(model.with_suffix(".json"))
    changed = manifest.model_copy(update={"precision": precision, "sha256": file_sha256(path)})
    write_manifest(changed, path.with_suffix(".json"))
    return path


def test_a_float_graph_computes_in_float_alone(dynamic_model):
    certificate = certify(dynamic_model, canvases(1)[0])
    assert certificate.nodes == {"fp32": 4}
    assert certificate.time["fp32"] > 0
    assert certificate.problem is None


def test_an_int8_graph_has_its_convolution_and_its_time_in_int8(dynamic_model, tmp_path):
    path = quantize_int8(dynamic_model, canvases(2), tmp_path)
    certificate = read_manifest(path.with_suffix(".json")).certificate
    assert certificate.nodes == {"fp32": 3, "int8": 1}
    assert certificate.time["int8"] > 0
    assert "onnxruntime" in certificate.measured_on


def test_no_time_is_measured_for_tensorrt_on_a_cpu(dynamic_model, tmp_path):
    path = quantize_int8(dynamic_model, canvases(2), tmp_path, Int8Settings(flavour="tensorrt"))
    certificate = read_manifest(path.with_suffix(".json")).certificate
    assert certificate.nodes == {"fp16": 3, "int8": 1}
    assert certificate.time == {}


@pytest.mark.parametrize("precision", ["int8", "int8-trt", "fp8", "fp16"])
def test_a_float_graph_under_another_name_is_an_error(dynamic_model, tmp_path, precision):
    path = renamed(dynamic_model, tmp_path / "x", precision)
    with pytest.raises(ExportError, match=f"is named {precision}, and no Conv"):
        certify(path)


def test_a_quantised_graph_under_the_name_of_float_is_an_error(dynamic_model, tmp_path):
    int8 = quantize_int8(dynamic_model, canvases(2), tmp_path / "int8")
    with pytest.raises(ExportError, match="is named fp32, and not every Conv"):
        certify(renamed(int8, tmp_path / "x", "fp32"))


def test_integer_nodes_that_no_integer_kernel_ran_are_a_contradiction():
    assert contradiction("int8", {"int8": 3}, {"fp32": 1.0}) is not None
    assert contradiction("int8", {"int8": 3}, {"fp32": 0.5, "int8": 0.5}) is None
    assert contradiction("int8-trt", {"int8": 3}, {}) is None
    assert "no such precision" in contradiction("int4", {"int8": 3}, {})


def test_a_graph_has_one_8_bit_type_and_the_stated_remainder():
    assert contradiction("fp8", {"fp8": 3, "fp16": 1}, {}, "fp16") is None
    assert "computes in int8" in contradiction("fp8", {"fp8": 3, "int8": 1}, {}, "fp16")
    assert "computes in fp8" in contradiction("int8-trt", {"fp8": 3, "int8": 1}, {}, "fp16")
    assert "is not all fp16" in contradiction("int8-trt", {"int8": 3, "fp32": 1}, {}, "fp16")
    assert contradiction("int8-trt", {"int8": 3, "fp32": 1}, {}, "fp32") is None
