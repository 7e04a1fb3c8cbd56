import numpy as np
import onnx
import pytest

from export.artifact.manifest import read_manifest
from export.engine import open_engine
from export.errors import DataError, ExportError
from export.pictures.images import to_tensor
from export.precision.fp16 import cast_half, to_half
from tests.export.tiny import canvases


@pytest.fixture(scope="module")
def half(dynamic_model, tmp_path_factory):
    return cast_half(dynamic_model, canvases(3), tmp_path_factory.mktemp("half"))


def element_types(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    graph = inferred.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


def checked_half(graph: onnx.GraphProto, opset: int) -> onnx.ModelProto:
    """Name a graph's nodes, cast it to fp16 and check the result."""
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
    cast = to_half(model)
    onnx.checker.check_model(cast, full_check=True)
    return cast


def test_fp16_stays_close_to_float_and_is_not_the_same(dynamic_model, half):
    images = to_tensor(canvases(3))
    with open_engine(dynamic_model, threads=1) as exact, open_engine(half, threads=1) as other:
        expected, found = exact.candidates(images), other.candidates(images)
    assert found.boxes.dtype == np.float32
    assert found.scores == pytest.approx(expected.scores, abs=5e-3)
    assert found.boxes == pytest.approx(expected.boxes, abs=0.05)
    assert (found.scores != expected.scores).any()


def test_convolutions_are_half_and_geometry_is_single(half):
    model = onnx.load(str(half))
    types = element_types(model)
    kinds: dict[str, set[int]] = {}
    for node in model.graph.node:
        if node.op_type != "Cast":
            kinds.setdefault(node.op_type, set()).add(types[node.output[0]])
    assert kinds["Conv"] == {onnx.TensorProto.FLOAT16}
    for operator in ("Exp", "Concat", "Clip", "ReduceMax"):
        assert onnx.TensorProto.FLOAT16 not in kinds.get(operator, set())
    ends = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert ends["images"] == ends["boxes"] == ends["scores"] == onnx.TensorProto.FLOAT


def test_between_two_single_nodes_nothing_is_rounded(half):
    # A cast to half may only feed nodes of half precision.
    model = onnx.load(str(half))
    types = element_types(model)
    readers = {name: node for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        if node.op_type == "Cast" and types[node.output[0]] == onnx.TensorProto.FLOAT16:
            assert readers[node.output[0]].op_type == "Conv"


def test_the_sidecar_certifies_every_convolution(half):
    manifest = read_manifest(half.with_suffix(".json"))
    assert manifest.precision == "fp16"
    assert manifest.certificate.nodes == {"fp16": 4}
    assert sum(manifest.certificate.time.values()) == pytest.approx(1, abs=0.01)


def overflowing_model(float_model, folder):
    """Write a copy whose activations exceed half precision."""
    model = onnx.load(str(float_model))
    for tensor in model.graph.initializer:
        if tensor.name == "detector.body.bias":
            values = onnx.numpy_helper.to_array(tensor) + np.float32(1e5)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    folder.mkdir()
    onnx.save(model, str(folder / "model.onnx"))
    (folder / "model.json").write_text(float_model.with_suffix(".json").read_text())
    return folder / "model.onnx"


def test_activations_beyond_half_precision_are_refused(dynamic_model, tmp_path):
    overflowing = overflowing_model(dynamic_model, tmp_path / "overflowing")
    with pytest.raises(ExportError, match="half precision ends at 65504"):
        cast_half(overflowing, canvases(1), tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_pictures_are_needed_and_the_source_is_float(dynamic_model, half, tmp_path):
    with pytest.raises(DataError, match="expected real pictures"):
        cast_half(dynamic_model, [], tmp_path)
    with pytest.raises(ExportError, match="is fp16; start from the fp32 model"):
        cast_half(half, canvases(1), tmp_path)


def test_the_scales_of_a_resize_stay_single():
    graph = onnx.parser.parse_graph(
        """
        g (float[1,2,4,4] images) => (float[1,2,8,8] out)
        <float[2,2,1,1] w = {1, 0, 0, 1}, float[4] scales = {1, 1, 2, 2}> {
            a = Conv(images, w)
            b = Resize(a, , scales)
            c = Conv(b, w)
            out = Exp(c)
        }
        """
    )
    cast = checked_half(graph, 18)
    resize = next(node for node in cast.graph.node if node.op_type == "Resize")
    assert list(resize.input) == ["a_half", "", "scales"]
    assert [n.op_type for n in cast.graph.node] == ["Cast", "Conv", "Resize", "Conv", "Cast", "Exp"]


def test_pairs_are_half_from_the_picture_of_features_on_and_scales_are_rounded_up():
    """RoiAlign is geometry; what it gives is cast once, before the pair that a Conv reads."""
    graph = onnx.parser.parse_graph(
        """
        g (float[1,2,4,4] images, float[1,4] rois, int64[1] index) => (float[1,2,2,2] out)
        <float[2,2,1,1] w = {1, 0, 0, 1}, float s = {0.1}, float[2] t = {0.00000001, 0.3},
         int8 z = {0}, int8[2] zs = {0, 0}> {
            a = Conv(images, w)
            r = RoiAlign<output_height = 2, output_width = 2>(a, rois, index)
            q = QuantizeLinear(r, s, z)
            d = DequantizeLinear(q, s, z)
            v = QuantizeLinear<axis = 0>(w, t, zs)
            u = DequantizeLinear<axis = 0>(v, t, zs)
            c = Conv(d, u)
            out = Exp(c)
        }
        """
    )
    cast = checked_half(graph, 19)
    types = element_types(cast)
    made = {node.op_type: types[node.output[0]] for node in cast.graph.node}
    assert made["RoiAlign"] == made["Exp"] == onnx.TensorProto.FLOAT
    assert made["DequantizeLinear"] == made["Conv"] == onnx.TensorProto.FLOAT16
    operators = [n.op_type for n in cast.graph.node]
    assert operators[operators.index("RoiAlign") :][:3] == ["RoiAlign", "Cast", "QuantizeLinear"]
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in cast.graph.initializer}
    # The halves around 0.1 are 1638 and 1639 parts of 2^-14, around 0.3 1228 and 1229 of 2^-12;
    # the least above 0 is 2^-24.
    assert stored["s_half"] == 1639 * 2.0**-14
    assert stored["t_half"].tolist() == [2.0**-24, 1229 * 2.0**-12]
