import numpy as np
import onnx
import pytest

from export.artifact.manifest import file_sha256, read_manifest
from export.engine import open_engine
from export.errors import DataError, ExportError
from export.pictures.images import to_tensor
from export.precision.int8 import Int8Settings, keep_pools_float, quantize_int8
from tests.export.precision.test_fp16 import element_types, overflowing_model
from tests.export.tiny import assert_scores_are_near, canvases


@pytest.fixture(scope="module")
def quantized(dynamic_model, tmp_path_factory):
    return quantize_int8(
        dynamic_model, canvases(8), tmp_path_factory.mktemp("int8"), Int8Settings(seed=3)
    )


def test_int8_stays_close_to_float(dynamic_model, quantized):
    images = to_tensor(canvases(3))
    with open_engine(dynamic_model, threads=1) as exact, open_engine(quantized, threads=1) as int8:
        expected, found = exact.candidates(images), int8.candidates(images)
    assert found.scores == pytest.approx(expected.scores, abs=0.05)
    assert found.boxes == pytest.approx(expected.boxes, abs=0.5)
    assert (found.scores != expected.scores).any()  # it is not the float graph


def test_only_the_middle_convolution_is_quantised(quantized):
    # Of stem, body, classes and edges: the first sees the picture, the last two predict.
    model = onnx.load(str(quantized))
    makers = {output: node.op_type for node in model.graph.node for output in node.output}
    quantised_weights = [
        node.input[1].partition("_")[0]
        for node in model.graph.node
        if node.op_type == "Conv" and makers.get(node.input[1]) == "DequantizeLinear"
    ]
    assert quantised_weights == ["detector.body.weight"]
    assert {opset.domain for opset in model.opset_import} == {""}


def test_activations_are_unsigned_and_weights_signed_per_channel(quantized):
    stored = {tensor.name: tensor for tensor in onnx.load(str(quantized)).graph.initializer}
    weight = stored["detector.body.weight_quantized"]
    assert weight.data_type == onnx.TensorProto.INT8
    assert list(stored["detector.body.weight_scale"].dims) == [8]
    assert stored["relu_zero_point"].data_type == onnx.TensorProto.UINT8


def test_the_sidecar_records_how_it_was_made(dynamic_model, quantized):
    manifest = read_manifest(quantized.with_suffix(".json"))
    assert (manifest.precision, manifest.backend) == ("int8", "onnxruntime")
    assert manifest.sha256 == file_sha256(quantized)
    record = manifest.quantization
    assert (record["nodes_quantized"], record["nodes_kept_float"]) == (1, 3)
    assert (record["method"], record["images"], record["seed"]) == ("minmax", 8, 3)
    assert record["float_sha256"] == file_sha256(dynamic_model)


@pytest.mark.parametrize(("reduce_range", "limit"), [(True, 64), (False, 127)])
def test_weights_keep_to_seven_bits_when_asked_to(dynamic_model, tmp_path, reduce_range, limit):
    path = quantize_int8(
        dynamic_model, canvases(2), tmp_path, Int8Settings(reduce_range=reduce_range)
    )
    stored = {tensor.name: tensor for tensor in onnx.load(str(path)).graph.initializer}
    weight = onnx.numpy_helper.to_array(stored["detector.body.weight_quantized"])
    assert np.abs(weight.astype(int)).max() == limit


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_other_ways_to_find_ranges_work_in_silence(dynamic_model, tmp_path, method, capsys):
    path = quantize_int8(dynamic_model, canvases(2), tmp_path, Int8Settings(method=method))
    assert read_manifest(path.with_suffix(".json")).quantization["method"] == method
    assert capsys.readouterr().out == ""


def test_a_fixed_batch_quantises_too(static_model, tmp_path):
    path = quantize_int8(static_model, canvases(2), tmp_path)
    with open_engine(path, threads=1) as engine:
        assert engine.candidates(to_tensor(canvases(1))).boxes.shape == (1, 16, 4)


def test_nodes_kept_float_by_name_must_exist_and_leave_something(dynamic_model, tmp_path):
    with pytest.raises(ExportError, match="has 'neck' in its name"):
        quantize_int8(dynamic_model, canvases(2), tmp_path, Int8Settings(keep_float=["neck"]))
    with pytest.raises(ExportError, match="nothing to quantise: every one of 4 weighted nodes"):
        quantize_int8(dynamic_model, canvases(2), tmp_path, Int8Settings(keep_float=["body"]))


def test_pictures_must_be_there_and_have_the_size_of_the_input(dynamic_model, tmp_path):
    with pytest.raises(DataError, match="got none"):
        quantize_int8(dynamic_model, [], tmp_path)
    with pytest.raises(DataError, match=r"\(32, 32, 3\), got \[\(8, 8, 3\)\]"):
        quantize_int8(dynamic_model, [np.zeros((8, 8, 3), dtype=np.uint8)], tmp_path)


def test_neither_the_float_model_nor_an_int8_one_is_overwritten(dynamic_model, quantized, tmp_path):
    with pytest.raises(ExportError, match="holds the fp32 model itself"):
        quantize_int8(dynamic_model, canvases(2), dynamic_model.parent)
    with pytest.raises(ExportError, match="is int8; start from the fp32 model instead"):
        quantize_int8(quantized, canvases(2), tmp_path)


def test_a_sum_behind_a_pool_reads_it_in_float():
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18]>
        g (float[1,1,4,4] x, float[1,1,1,1] w) => (float[1,1,4,4] y)
        <float s = {0.5}, uint8 z = {0}> {
            p = MaxPool<kernel_shape = [1, 1]>(x)
            q = QuantizeLinear(p, s, z)
            d = DequantizeLinear(q, s, z)
            c = Conv(d, w)
            y = Add(c, d)
        }"""
    )
    keep_pools_float(model)
    inputs = {node.op_type: list(node.input) for node in model.graph.node}
    assert inputs["Add"] == ["c", "p"]
    assert inputs["Conv"] == ["d", "w"]


@pytest.fixture(scope="module")
def symmetric(dynamic_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trt")
    return quantize_int8(dynamic_model, canvases(8), folder, Int8Settings(flavour="tensorrt"))


def test_the_flavours_have_names_of_their_own(quantized, symmetric):
    cpu, tensorrt = (read_manifest(p.with_suffix(".json")) for p in (quantized, symmetric))
    assert (cpu.precision, tensorrt.precision) == ("int8", "int8-trt")
    assert (cpu.quantization["flavour"], tensorrt.quantization["flavour"]) == ("cpu", "tensorrt")
    with pytest.raises(ExportError, match="is int8-trt; start from the fp32 model"):
        quantize_int8(symmetric, canvases(2), quantized.parent)


def test_the_symmetric_flavour_stays_close_to_float(dynamic_model, symmetric):
    assert_scores_are_near(symmetric, dynamic_model, 0.05)


def test_the_symmetric_flavour_quantises_inputs_and_weights_alone(symmetric):
    model = onnx.load(str(symmetric))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    pairs = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert len(pairs) == 2  # one for the data, one for the weights of one Conv
    for quantize in pairs:
        assert stored[quantize.input[2]].data_type == onnx.TensorProto.INT8
        assert readers[readers[quantize.output[0]].output[0]].op_type == "Conv"
    assert any(q.input[0] in stored for q in pairs)  # weights lie in float before their pair
    assert any(q.input[0] in makers for q in pairs)


def pairs_and_convolutions(path):
    """The data types that pairs give out and that Convs give out."""
    model = onnx.load(str(path))
    types = element_types(model)
    return [
        {types[node.output[0]] for node in model.graph.node if node.op_type == kind}
        for kind in ("DequantizeLinear", "Conv")
    ]


def test_what_int8_leaves_is_half_precision_for_tensorrt_alone(quantized, symmetric):
    half, single = {onnx.TensorProto.FLOAT16}, {onnx.TensorProto.FLOAT}
    assert pairs_and_convolutions(symmetric) == [half, half]
    assert pairs_and_convolutions(quantized) == [single, single]
    cpu, tensorrt = (read_manifest(p.with_suffix(".json")) for p in (quantized, symmetric))
    assert (cpu.quantization["remainder"], cpu.opset) == ("fp32", 18)
    assert (tensorrt.quantization["remainder"], tensorrt.opset) == ("fp16", 19)
    assert tensorrt.certificate.nodes == {"fp16": 3, "int8": 1}


def test_the_rest_stays_single_where_that_is_asked_for(dynamic_model, symmetric, tmp_path):
    path = quantize_int8(
        dynamic_model, canvases(8), tmp_path, Int8Settings(flavour="tensorrt", remainder="fp32")
    )
    assert pairs_and_convolutions(path) == [{onnx.TensorProto.FLOAT}] * 2
    manifest = read_manifest(path.with_suffix(".json"))
    assert (manifest.certificate.nodes, manifest.opset) == ({"fp32": 3, "int8": 1}, 18)
    images = to_tensor(canvases(3))
    with open_engine(path, threads=1) as single, open_engine(symmetric, threads=1) as half:
        expected, found = single.candidates(images), half.candidates(images)
    assert found.scores == pytest.approx(expected.scores, abs=0.02)


def test_geometry_beside_int8_is_single(symmetric):
    model = onnx.load(str(symmetric))
    types = element_types(model)
    for node in model.graph.node:
        if node.op_type in {"Exp", "Concat", "Clip", "ReduceMax"}:
            assert types[node.output[0]] == onnx.TensorProto.FLOAT


def test_a_remainder_that_half_precision_cannot_hold_is_refused(dynamic_model, tmp_path):
    overflowing = overflowing_model(dynamic_model, tmp_path / "overflowing")
    with pytest.raises(ExportError, match="remainder: fp32"):
        quantize_int8(overflowing, canvases(2), tmp_path / "half", Int8Settings(flavour="tensorrt"))
    assert not (tmp_path / "half").exists()
    single = tmp_path / "single"
    quantize_int8(
        overflowing, canvases(2), single, Int8Settings(flavour="tensorrt", remainder="fp32")
    )
    assert (single / "model.onnx").is_file()
