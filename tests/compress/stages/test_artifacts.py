"""What is made of a finished model, and what stops before it is timed."""

import json
import sys
from pathlib import Path

import pytest
import torch

from compress.run import main
from compress.stages.artifacts import Maker
from compress.stages.model_name import ModelName
from export.artifact.manifest import read_manifest
from export.errors import ExportError
from tests.compress.smoke import opened_smoke, write_smoke
from tests.export.precision.test_fp8 import needs_model_optimizer


def maker(folder: Path, *overrides: str, seed: int = 0) -> Maker:
    """Of a detector with random weights that is sure of what it sees."""
    run = opened_smoke(folder, "data.val.count=3", *overrides, quiet=False)
    detector = run.build_student(seed)
    with torch.no_grad():
        parameters = dict(detector.named_parameters())
        parameters["head.class_logits.bias"].fill_(-2)  # instead of 0.01's logit
        parameters["head.class_logits.weight"].normal_(std=0.3)
    return Maker(run, detector.eval(), ModelName(0, "student"))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Maker, Path]:
    folder = tmp_path_factory.mktemp("artifacts")
    made = maker(folder)
    made.fp32(folder / "fp32")
    return made, folder / "fp32" / "model.onnx"


@pytest.mark.slow
def test_the_float_file_sees_what_torch_sees(exported: tuple[Maker, Path]) -> None:
    manifest = read_manifest(exported[1].with_suffix(".json"))
    assert manifest.parity["matched"] > 20
    assert manifest.parity["missing"] == manifest.parity["extra"] == 0
    assert manifest.parity["stable"] is True
    assert manifest.certificate is not None
    assert set(manifest.certificate.nodes) == {"fp32"}


@pytest.mark.slow
def test_half_precision_passes_its_gate(exported: tuple[Maker, Path], tmp_path: Path) -> None:
    made, source = exported
    made.fp16(source, tmp_path / "fp16")
    parity = read_manifest(tmp_path / "fp16" / "model.json").parity
    assert parity["matched"] > 20


@pytest.mark.slow
def test_a_file_of_other_weights_is_refused_with_a_picture(
    exported: tuple[Maker, Path], tmp_path: Path
) -> None:
    stranger = maker(tmp_path, seed=1)
    with pytest.raises(ExportError, match="its detections differ from torch") as caught:
        stranger.fp16(exported[1], tmp_path / "fp16")
    assert caught.value.exit_code == 6
    assert (tmp_path / "fp16" / "worst.png").is_file()


@pytest.mark.slow
def test_layers_are_restored_until_ap_holds(exported: tuple[Maker, Path], tmp_path: Path) -> None:
    made = like(exported, tmp_path, "export.quantization.max_drop=0")
    made.int8(exported[1], tmp_path / "int8", "tensorrt")
    record = read_manifest(tmp_path / "int8" / "model.json").quantization
    assert record["ap_all_quantized"] < record["ap_fp32"] <= record["ap"]
    assert 0 < record["layers_restored"] < len(record["layers"])
    assert record["flavour"] == "tensorrt"
    assert len(list((tmp_path / "run" / "calibration").iterdir())) == 1


@pytest.mark.slow
@needs_model_optimizer
def test_fp8_is_made_and_judged_like_int8(tmp_path: Path) -> None:
    wide = ("student.width=32", "student.backbone.widths=[16, 32, 32, 32]")
    made = maker(tmp_path, *wide, "export.quantization.max_drop=100")
    made.fp32(tmp_path / "fp32")
    made.fp8(tmp_path / "fp32" / "model.onnx", tmp_path / "fp8")
    manifest = read_manifest(tmp_path / "fp8" / "model.json")
    assert manifest.certificate is not None
    assert set(manifest.certificate.nodes) == {"fp8", "fp16"}
    assert manifest.parity["stable"] is True
    assert manifest.parity["matched"] > 20
    assert manifest.quantization["ap"] == manifest.quantization["ap_all_quantized"]


@pytest.mark.slow
@needs_model_optimizer
def test_a_student_too_narrow_for_fp8_is_told_and_the_run_goes_on(
    exported: tuple[Maker, Path], tmp_path: Path
) -> None:
    like(exported, tmp_path).fp8(exported[1], tmp_path / "fp8")
    said = json.loads((tmp_path / "fp8" / "refused.json").read_text())
    assert said["reason"].endswith("more than 16 channels in and out; keep fp16")
    assert not (tmp_path / "fp8" / "model.onnx").exists()


def test_fp8_without_what_makes_it_stops_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    arguments = [str(write_smoke(tmp_path)), "--check", "--runs", str(tmp_path / "runs")]
    assert main([*arguments, "export.precisions=[fp32, fp8]"]) == 4
    assert "pip install 'slimdet[fp8]'" in capsys.readouterr().err
    assert main(arguments) == 0


def like(exported: tuple[Maker, Path], folder: Path, *overrides: str) -> Maker:
    """One of the same weights under other settings."""
    made = maker(folder, *overrides, "export.calibration.count=1")
    made.detector.load_state_dict(exported[0].detector.state_dict())
    return made
