import onnx
import pytest

from export.checks.qdq_lint import lint_qdq
from export.lint import main
from export.precision.int8 import Int8Settings, quantize_int8
from tests.export.precision.fp8_graph import in_fp8
from tests.export.tiny import canvases


def parsed(stored: str, body: str, header: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18{header}]>
        g (float[1,2] x) => (float[1,2] y) <{stored}> {{ {body} }}"""
    )


PAIR = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"


def test_a_symmetric_pair_is_clean():
    assert lint_qdq(parsed("float s = {0.5}, int8 z = {0}", PAIR)) == []


@pytest.mark.parametrize(
    ("stored", "problem"),
    [
        ("float s = {0.5}, int8 z = {3}", "zero point that is not 0"),
        ("float s = {0.5}, uint8 z = {0}", "UINT8"),
        ("float s = {0}, int8 z = {0}", "scale that is not above 0"),
    ],
)
def test_wrong_parameters_are_named(stored, problem):
    assert problem in "; ".join(lint_qdq(parsed(stored, PAIR)))


def test_a_quantised_bias_is_named():
    found = lint_qdq(
        parsed(
            "float s = {0.5}, int32[2] b = {1, 2}, int32 z = {0}",
            "d = DequantizeLinear(b, s, z) y = Add(x, d)",
        )
    )
    assert found == ["INT32 behind DequantizeLinear (a quantised bias): d"]


def test_stored_integer_weights_need_no_quantize_linear():
    model = parsed(
        "float s = {0.5}, int8[2] w = {1, 2}, int8 z = {0}",
        "d = DequantizeLinear(w, s, z) y = Add(x, d)",
    )
    assert lint_qdq(model) == []


def test_a_softmax_between_pairs_is_named():
    body = f"{PAIR.replace('y =', 'd =')} y = Softmax(d)"
    assert any(
        "quantised Softmax" in p for p in lint_qdq(parsed("float s = {0.5}, int8 z = {0}", body))
    )


def test_a_quantized_tensor_read_without_its_partner_is_named():
    found = "; ".join(
        lint_qdq(
            parsed("float s = {0.5}, int8 z = {0}", "q = QuantizeLinear(x, s, z) y = Cast<to=1>(q)")
        )
    )
    assert "something but DequantizeLinear reads" in found
    assert "1 QuantizeLinear against 0 DequantizeLinear" in found


def test_unused_and_foreign_operator_sets_are_named():
    stored = "float s = {0.5}, int8 z = {0}"
    found = lint_qdq(parsed(stored, PAIR, ', "com.microsoft" : 1'))
    assert found == ["operator sets that no node uses: com.microsoft"]
    body = "q = com.microsoft.QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"
    assert any(
        "com.microsoft" in p for p in lint_qdq(parsed(stored, body, ', "com.microsoft" : 1'))
    )


def test_the_command_line_tells_the_cpu_flavour_from_tensorrts(dynamic_model, tmp_path, capsys):
    cpu = quantize_int8(dynamic_model, canvases(2), tmp_path / "cpu")
    tensorrt = quantize_int8(
        dynamic_model, canvases(2), tmp_path / "trt", Int8Settings(flavour="tensorrt")
    )
    assert main([str(tensorrt)]) == 0
    assert main([str(cpu), str(tensorrt)]) == 6
    said = capsys.readouterr().out
    assert "UINT8" in said
    assert "quantised bias" in said
    assert f"{tensorrt}: clean" in said


@pytest.mark.parametrize("flaw", ["", "form", "opset", "both"])
def test_fp8_is_e4m3_of_opset_19_and_without_int8_beside_it(dynamic_model, tmp_path, flaw):
    int8 = onnx.load(
        str(quantize_int8(dynamic_model, canvases(2), tmp_path, Int8Settings(flavour="tensorrt")))
    )
    forms = onnx.TensorProto
    model = in_fp8(int8, forms.FLOAT8E5M2 if flaw == "form" else forms.FLOAT8E4M3FN)
    if flaw == "opset":
        model.opset_import[0].version = 18
    if flaw == "both":  # the weights' pair is left INT8
        zeros = {tensor.name: tensor for tensor in model.graph.initializer}
        name = next(n.input[2] for n in model.graph.node if n.op_type == "QuantizeLinear")
        zeros[name].CopyFrom(next(t for t in int8.graph.initializer if t.name == name))
    said = {
        "": "",
        "form": "float8_e5m2, where TensorRT takes FP8 of the form float8_e4m3fn alone",
        "opset": "float16 and float8_e4m3fn at QuantizeLinear or DequantizeLinear in opset 18",
        "both": "INT8 and FP8 in one graph",
    }
    found = lint_qdq(model)
    assert said[flaw] in "; ".join(found)
    assert bool(found) == bool(flaw)


def test_a_file_that_is_no_graph_is_named(tmp_path, capsys):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    assert main([str(tmp_path / "x.onnx")]) == 6
    assert main([str(tmp_path / "missing.onnx")]) == 6
    assert "cannot be read as an ONNX graph" in capsys.readouterr().err
