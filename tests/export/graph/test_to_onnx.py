import json

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from export.artifact.manifest import file_sha256, read_manifest
from export.engine import open_engine
from export.errors import ExportError
from export.graph.to_onnx import export_onnx
from export.pictures.images import to_tensor
from tests.export.tiny import canvases, in_torch, tiny_detector, tiny_manifest


def agrees_with_torch(path, images):
    with open_engine(path, threads=1) as engine:
        found = engine.candidates(images)
    boxes, scores, labels = in_torch(tiny_detector(), images)
    assert found.labels.dtype == np.int32
    return (
        found.boxes == pytest.approx(boxes, abs=1e-4)
        and found.scores == pytest.approx(scores, abs=1e-5)
        and (found.labels == labels).all()
    )


def test_the_fixed_graph_agrees_with_torch(static_model):
    assert agrees_with_torch(static_model, to_tensor(canvases(1)))


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_the_dynamic_graph_agrees_with_torch_at_every_batch(dynamic_model, batch):
    assert agrees_with_torch(dynamic_model, to_tensor(canvases(batch)))


def test_the_graph_is_one_file_without_traces_of_its_origin(dynamic_model):
    assert sorted(path.name for path in dynamic_model.parent.iterdir()) == [
        "model.json",
        "model.onnx",
    ]
    model = onnx.load(str(dynamic_model))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
    assert b"tests/export" not in dynamic_model.read_bytes()
    assert [value.name for value in model.graph.input] == ["images"]
    assert [value.name for value in model.graph.output] == ["boxes", "scores", "labels"]


def test_the_sidecar_describes_the_file(static_model):
    manifest = read_manifest(static_model.with_suffix(".json"))
    assert manifest.artifact == "model.onnx"
    assert manifest.sha256 == file_sha256(static_model)
    assert manifest.opset == 18
    assert manifest.made_by["torch"] == torch.__version__
    assert json.loads(static_model.with_suffix(".json").read_text())["input"]["height"] == 32


class Stubborn(nn.Module):
    """Keeps as many boxes as score well: a size that no fixed graph can have."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_detector()
        self.inner.norm.eval()  # frozen, while the rest trains

    def candidates(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        boxes, scores, labels = self.inner.candidates(images)
        if (scores > 0.5).sum() > 3:
            boxes = boxes + 1
        return boxes, scores, labels


@pytest.mark.slow
def test_what_cannot_be_traced_is_refused_and_modes_are_left_as_they_were(tmp_path):
    detector = Stubborn()
    with pytest.raises(ExportError, match=r"student \(tiny\): its candidates cannot be traced"):
        export_onnx(detector, tiny_manifest(), tmp_path, to_tensor(canvases(1)))
    assert detector.training
    assert detector.inner.body.training
    assert not detector.inner.norm.training
    assert not list(tmp_path.iterdir())


def test_a_sample_of_another_size_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"the manifest states \(B, 3, 64, 64\)"):
        export_onnx(tiny_detector(), tiny_manifest(side=64), tmp_path, to_tensor(canvases(1)))


@pytest.mark.slow
def test_an_operator_onnx_does_not_know_is_translated(tmp_path):
    from onnxscript import opset18 as op

    @torch.library.custom_op("slimdet_tests::halve", mutates_args=())
    def halve(values: Tensor) -> Tensor:
        return values / 2

    @halve.register_fake
    def _(values: Tensor) -> Tensor:
        return torch.empty_like(values)

    class Halving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_detector()

        def candidates(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            boxes, scores, labels = self.inner.candidates(images)
            return boxes, halve(scores), labels

    def halve_in_onnx(values):
        return op.Div(values, op.Constant(value_float=2.0))

    translations = {torch.ops.slimdet_tests.halve.default: halve_in_onnx}
    images = to_tensor(canvases(1))
    path = export_onnx(Halving(), tiny_manifest(), tmp_path, images, translations=translations)
    with open_engine(path, threads=1) as engine:
        found = engine.candidates(images)
    assert found.scores == pytest.approx(
        np.asarray(in_torch(tiny_detector(), images)[1], dtype=np.float32) / 2, abs=1e-5
    )
