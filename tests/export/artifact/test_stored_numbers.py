"""Numbers that make a model find nothing are found wherever an ONNX file can store them."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export.artifact.sidecar import verify_numbers
from export.artifact.stored_numbers import broken_number
from export.errors import ExportError


def graph(*tensors: TensorProto, text: str = "y = Identity(x)") -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]> g (float[1,3,8,8] x) => (float[N] y)
        {{ {text} }}"""
    )
    model.graph.initializer.extend(tensors)
    return model


def said(model: onnx.ModelProto) -> str | None:
    return broken_number(model.SerializeToString())


FLOATS = ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "FLOAT8E4M3FN", "FLOAT8E5M2")


@pytest.mark.parametrize("stored", ["as numbers", "as bytes"])
@pytest.mark.parametrize("kind", FLOATS)
def test_nan_is_found_in_every_type_and_form(kind: str, stored: str) -> None:
    number = getattr(TensorProto, kind)
    fine = helper.make_tensor("fine", number, [3], [1.0, -2.0, 0.5])
    broken = helper.make_tensor("weird", number, [3], [1.0, float("nan"), 0.5])
    if stored == "as bytes":
        for tensor in (fine, broken):
            values = numpy_helper.to_array(tensor)
            for numbers in ("float_data", "int32_data", "double_data"):
                tensor.ClearField(numbers)
            tensor.raw_data = values.tobytes()
    assert said(graph(fine)) is None
    assert said(graph(fine, broken)) == "tensor 'weird' holds NaN"


@pytest.mark.parametrize(
    "text",
    [
        "c = Constant<value_float = nan>() y = Add(x, c)",
        "c = Constant<value_floats = [1.0, nan]>() y = Add(x, c)",
        "c = Constant<value = float[2] {1.0, nan}>() y = Add(x, c)",
    ],
)
def test_nan_is_found_in_constants_of_the_graph_and_of_its_branches(text: str) -> None:
    text = text.replace("nan", "7.0")
    plain = graph(text=text)
    inner = plain.graph.node[0].attribute[0]
    if inner.HasField("f"):
        inner.f = np.nan
    elif inner.floats:
        inner.floats[1] = np.nan
    else:
        inner.t.float_data[1] = np.nan
    assert said(graph(text=text)) is None
    assert said(plain) == "tensor 'c' holds NaN"
    branch = helper.make_graph(list(plain.graph.node), "branch", [], list(plain.graph.output))
    outer = graph()
    outer.graph.node.append(
        helper.make_node("If", ["go"], ["z"], then_branch=branch, else_branch=branch)
    )
    assert said(outer) == "tensor 'c' holds NaN"
    function = onnx.FunctionProto(name="f", domain="own")
    function.node.extend(plain.graph.node)
    with_function = graph()
    with_function.functions.append(function)
    assert said(with_function) == "tensor 'c' holds NaN"


def test_nan_is_found_in_a_sparse_tensor_and_in_a_branch_that_stores_weights() -> None:
    broken = numpy_helper.from_array(np.array([1, np.nan], np.float32), "w")
    places = numpy_helper.from_array(np.array([0, 4], np.int64), "places")
    sparse = graph()
    sparse.graph.sparse_initializer.append(helper.make_sparse_tensor(broken, places, [9]))
    assert said(sparse) == "tensor 'w' holds NaN"
    branch = helper.make_graph([], "branch", [], [], initializer=[broken])
    outer = graph()
    outer.graph.node.append(helper.make_node("Loop", [], ["z"], body=branch))
    assert said(outer) == "tensor 'w' holds NaN"


def test_infinity_is_refused_as_a_weight_and_allowed_as_a_mask() -> None:
    values = numpy_helper.from_array(np.array([1, -np.inf], np.float32), "w")
    assert said(graph(values, text="y = MatMul(x, w)")) == (
        "tensor 'w', an operand of MatMul, holds infinity"
    )
    assert said(graph(values, text="y = Max(x, w)")) is None
    assert said(graph(values, text="y = Add(x, w)")) is None


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize("value", [0.0, -0.25, np.nan, np.inf, 0.5])
def test_a_scale_is_positive_and_finite(operator: str, value: float) -> None:
    for kind in (np.float32, np.float16):
        scale = numpy_helper.from_array(np.array([0.1, value], kind), "s")
        found = said(graph(scale, text=f"y = {operator}(x, s)"))
        assert found == (None if value == 0.5 else f"scale 's' of {operator} is {value:g}")
    zero = numpy_helper.from_array(np.zeros(2, np.float32), "z")
    assert said(graph(zero, text=f"c = Constant<value_float = 0.5>() y = {operator}(z, c)")) is None


def test_weights_in_another_file_are_refused() -> None:
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), "w")
    onnx.external_data_helper.set_external_data(tensor, "weights.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    assert "'w' lies in another file" in (said(graph(tensor)) or "")


def test_the_error_names_the_file_and_what_to_do(tmp_path) -> None:
    broken = numpy_helper.from_array(np.array([np.nan], np.float32), "w")
    content = graph(broken).SerializeToString()
    with pytest.raises(ExportError, match=r"m\.onnx: tensor 'w' holds NaN; .* export it again"):
        verify_numbers(tmp_path / "m.onnx", content)
    verify_numbers(tmp_path / "m.onnx", graph().SerializeToString())


GOOD = graph(
    helper.make_tensor("a", TensorProto.FLOAT16, [2], [1.0, 2.0]),
    numpy_helper.from_array(np.ones(5, np.float32), "b"),
    text="c = Constant<value_float = 0.5>() y = MatMul(x, c)",
).SerializeToString()


@pytest.mark.slow
@settings(max_examples=60)
@given(place=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_file_gives_a_sentence_or_nothing(place: int, byte: int, cut: bool) -> None:
    content = GOOD[:place] if cut else GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    found = broken_number(content)
    assert found is None or found
