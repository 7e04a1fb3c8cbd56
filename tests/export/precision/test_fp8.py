"""FP8 graphs; what Model Optimizer makes is tested where it is installed."""

import importlib.util
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from export.artifact.manifest import file_sha256, read_manifest, write_manifest
from export.checks.certificate import certify
from export.checks.qdq_lint import lint_qdq
from export.engine import open_engine
from export.errors import ExportError, MissingDependencyError
from export.graph.to_onnx import export_onnx
from export.pictures.images import to_tensor
from export.precision.fp8 import open_fp8_quantizer, quantize_fp8, quantized_nodes, take_out_pairs
from export.precision.model_optimizer import require_model_optimizer
from export.precision.sensitivity import limit_drop
from tests.export.precision.fp8_graph import fp8_artifact
from tests.export.precision.test_fp16 import element_types
from tests.export.tiny import TinyDetector, assert_scores_are_near, canvases, tiny_manifest

FP8 = onnx.TensorProto.FLOAT8E4M3FN
HALF = onnx.TensorProto.FLOAT16
needs_model_optimizer = pytest.mark.skipif(
    importlib.util.find_spec("modelopt") is None, reason="Model Optimizer is not installed"
)


@pytest.fixture(scope="module")
def by_hand(dynamic_model, tmp_path_factory):
    return fp8_artifact(dynamic_model, tmp_path_factory.mktemp("fp8"))


def test_without_model_optimizer_the_message_says_how_to_get_it(
    dynamic_model, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'slimdet\[fp8\]'"):
        quantize_fp8(dynamic_model, canvases(2), tmp_path / "fp8")
    assert not (tmp_path / "fp8").exists()


def test_an_fp8_graph_is_clean_and_certified(by_hand):
    assert lint_qdq(onnx.load(str(by_hand))) == []
    assert certify(by_hand).nodes == {"fp16": 3, "fp8": 1}


@pytest.mark.parametrize("precision", ["int8-trt", "fp16"])
def test_an_fp8_graph_under_another_name_is_an_error(dynamic_model, tmp_path, precision):
    path = fp8_artifact(dynamic_model, tmp_path, precision)
    with pytest.raises(ExportError, match=f"is named {precision}, and"):
        certify(path)


def test_onnx_runtime_opens_an_fp8_file_and_finds_about_the_same(dynamic_model, by_hand):
    assert_scores_are_near(by_hand, dynamic_model, 0.1)


def chain(folder, nodes, count):
    """Write a graph of an FP8 pair of scale 0.125 and `nodes` from x to y, with its sidecar.

    The numbers of y are given as `count` boxes.
    """
    zeros = ", ".join(["0"] * count)
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 19]>
        g (float[1,3,4,4] images)
        => (float[1,{count},4] boxes, float[1,{count}] scores, int32[1,{count}] labels)
        <float scale = {{0.125}}, int64[3] rows = {{1, {count}, 4}},
         float[1,{count}] none = {{{zeros}}}, int32[1,{count}] zeros = {{{zeros}}}> {{
            q = QuantizeLinear(images, scale, zero)
            x = DequantizeLinear(q, scale, zero)
            {nodes}
            boxes = Reshape(y, rows)
            scores = Identity(none)
            labels = Identity(zeros)
        }}"""
    )
    model.graph.initializer.append(onnx.helper.make_tensor("zero", FP8, [], b"\0", raw=True))
    onnx.checker.check_model(model, full_check=True)
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    update = {"precision": "fp8", "sha256": file_sha256(path)}
    write_manifest(tiny_manifest(side=4).model_copy(update=update), path.with_suffix(".json"))
    return path


def test_values_are_rounded_to_e4m3_and_saturate(tmp_path):
    path = chain(tmp_path, "y = Identity(x)", 12)
    images = np.linspace(-80, 80, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    with open_engine(path, threads=1) as engine:
        found = engine.candidates(images).boxes.reshape(images.shape)
    limited = np.clip(images / 0.125, -448, 448)  # where the format ends
    expected = limited.astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * 0.125
    assert np.array_equal(found, expected)
    assert found.max() == 56


def test_operators_without_fp8_kernels_may_follow_a_pair(tmp_path):
    """ONNX Runtime's optimiser would move the pair behind them, and refuse what it made."""
    nodes = """
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)
        y = Transpose<perm = [0, 2, 3, 1]>(p)
    """
    path = chain(tmp_path, nodes, 3)
    with open_engine(path, threads=1) as engine:
        assert (engine.candidates(np.ones((1, 3, 4, 4), np.float32)).boxes == 1).all()


def test_a_node_without_its_pairs_reads_what_they_read(by_hand):
    model = onnx.load(str(by_hand))
    (name,) = quantized_nodes(model)
    kept = onnx.ModelProto()
    kept.CopyFrom(model)
    take_out_pairs(kept, keep=[name])
    assert kept == model
    take_out_pairs(model, keep=[])
    onnx.checker.check_model(model, full_check=True)
    assert not {node.op_type for node in model.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert FP8 not in element_types(model).values()
    assert quantized_nodes(model) == frozenset()


class Wide(TinyDetector):
    """Two inner convolutions of as many channels as FP8 kernels want."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=4, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.body = nn.Sequential(  # type: ignore[assignment]
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2, padding=1)
        )
        self.classes = nn.Conv2d(32, 2, 1)
        self.edges = nn.Conv2d(32, 4, 1)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("wide")
    manifest = tiny_manifest(dynamic_batch=True)
    return export_onnx(Wide(), manifest, folder, to_tensor(canvases(1)))


@pytest.fixture(scope="module")
def quantizer(wide, tmp_path_factory):
    return open_fp8_quantizer(wide, canvases(4), tmp_path_factory.mktemp("q"), seed=3)


@needs_model_optimizer
def test_model_optimizer_quantises_the_inner_convolutions_alone(wide, quantizer, tmp_path):
    path = quantizer.write(tmp_path, quantizer.nodes, {}, canvases(1)[0])
    manifest = read_manifest(path.with_suffix(".json"))
    assert manifest.certificate.nodes == {"fp16": 3, "fp8": 2}  # the first and two that predict
    record = manifest.quantization
    assert (record["nodes_quantized"], record["nodes_kept_float"]) == (2, 3)
    assert (record["flavour"], record["remainder"], record["seed"]) == ("fp8", "fp16", 3)
    assert record["float_sha256"] == file_sha256(wide)
    assert (manifest.precision, manifest.opset) == ("fp8", 19)
    assert manifest.made_by["nvidia-modelopt"] == require_model_optimizer()
    assert "modelopt" not in sys.modules  # it patches ONNX Runtime's quantiser, so it stays outside


@needs_model_optimizer
def test_its_pairs_are_half_precision_and_geometry_is_single(quantizer, tmp_path):
    model = onnx.load(str(quantizer.write(tmp_path, quantizer.nodes, {})))
    types = element_types(model)
    kinds: dict[str, set[int]] = {}
    for node in model.graph.node:
        kinds.setdefault(node.op_type, set()).add(types[node.output[0]])
    assert kinds["QuantizeLinear"] == {FP8}
    assert kinds["DequantizeLinear"] == kinds["Conv"] == {HALF}
    assert HALF not in kinds["Exp"] | kinds["Concat"] | kinds["Clip"] | kinds["ReduceMax"]


@needs_model_optimizer
def test_its_detections_are_near_those_of_the_float_model(wide, quantizer, tmp_path):
    images = to_tensor(canvases(3))
    path = quantizer.write(tmp_path, quantizer.nodes, {})
    with open_engine(wide, threads=1) as exact, open_engine(path, threads=1) as fp8:
        expected, found = exact.candidates(images), fp8.candidates(images)
    assert found.scores == pytest.approx(expected.scores, abs=0.1)
    assert found.boxes == pytest.approx(expected.boxes, abs=1)
    assert (found.scores != expected.scores).any()


@needs_model_optimizer
def test_layers_return_from_fp8_to_float_until_ap_holds(quantizer, tmp_path):
    def measure(path):
        manifest = read_manifest(path.with_suffix(".json"))
        return 0.8 if manifest.quantization.get("nodes_quantized") == 2 else 0.9

    held = limit_drop(quantizer, canvases(2), measure, 0.5)
    assert (held.record["ap_all_quantized"], held.record["layers_restored"]) == (80, 1)
    assert held.nodes is not None
    path = quantizer.write(tmp_path, held.nodes, held.record)
    assert read_manifest(path.with_suffix(".json")).certificate.nodes == {"fp16": 4, "fp8": 1}


@needs_model_optimizer
def test_a_model_of_few_channels_is_refused_with_what_to_keep(dynamic_model, tmp_path):
    with pytest.raises(ExportError, match="more than 16 channels in and out"):
        quantize_fp8(dynamic_model, canvases(2), tmp_path)
