"""A run's `model.safetensors` goes where other models go: to ONNX, to engines, to predictions."""

import json
from pathlib import Path

import numpy as np
import pytest

import slimdet
from compress.stages.model_file import read_model_metadata
from export.artifact.manifest import read_manifest
from export.artifact.preprocessing import Preprocessing
from slimdet.__main__ import main
from tests.compress.stages.test_model_file import rewrite, write_model
from tests.export.test_predict import pictures as pictures


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_model(tmp_path)


@pytest.mark.slow
def test_a_checkpoint_becomes_the_onnx_file_that_finds_what_it_finds(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    built = slimdet.export(checkpoint, tmp_path / "onnx", precision="fp32")
    manifest = read_manifest(built.with_suffix(".json"))
    assert (manifest.precision, manifest.backend, manifest.model) == (
        "fp32",
        "onnxruntime",
        "student",
    )
    assert manifest.classes == read_model_metadata(checkpoint).classes
    assert manifest.parity["stable"]
    with slimdet.load(checkpoint) as trained, slimdet.load(built) as exported:
        ours, theirs = (m.predict(pictures / "a.png", 0.0)[0] for m in (trained, exported))
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-4)


@pytest.mark.slow
def test_an_older_checkpoint_states_what_its_export_is_run_with_and_that_its_training_is_unknown(
    checkpoint: Path, tmp_path: Path
) -> None:
    metadata = read_model_metadata(checkpoint).model_dump(mode="json", by_alias=True)
    metadata["manifest"]["input"]["preprocessing"] = None
    rewrite(checkpoint, json.dumps(metadata))
    built = slimdet.export(checkpoint, tmp_path / "onnx", precision="fp32")
    manifest = read_manifest(built.with_suffix(".json"))
    assert manifest.input.preprocessing == Preprocessing(bit_depth=16)
    assert manifest.made_by["preprocessing of training"].startswith("unknown")


@pytest.mark.slow
def test_the_command_makes_other_precisions_of_a_checkpoint(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "int8"
    given = ["--precision", "int8", "--images", pictures, "--count", "2", "--out", out]
    assert main(["build", *map(str, [checkpoint, *given])]) == 0
    assert "nodes in INT8" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "model.onnx"]


def test_what_a_checkpoint_cannot_become_is_refused_before_it_is_traced(
    checkpoint: Path, tmp_path: Path, capsys
) -> None:
    with pytest.raises(slimdet.ExportError, match="int8 is made of the checkpoint's FP32 graph"):
        slimdet.export(checkpoint, tmp_path / "out", precision="int8")
    with pytest.raises(slimdet.ExportError, match="holds the checkpoint itself"):
        slimdet.export(checkpoint, checkpoint.parent, precision="fp32")
    metadata = read_model_metadata(checkpoint).model_dump(mode="json", by_alias=True)
    metadata["recipe"]["export"]["nms"] = "matrix"
    with pytest.raises(slimdet.ExportError, match="must be shown to converge on real pictures"):
        slimdet.export(
            rewrite(checkpoint, json.dumps(metadata)), tmp_path / "out", precision="fp32"
        )
    metadata["recipe"]["export"]["nms"] = "later"
    rewrite(checkpoint, json.dumps(metadata))
    assert main(["build", str(checkpoint), "--precision", "fp32", "--out", str(tmp_path)]) == 6
    said = capsys.readouterr().err
    assert "settings in it are not those of this version (nms: expected 'host', 'graph'" in said
    assert 'found "later"' in said
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_or_its_folder_is_taken_by_predict(
    checkpoint: Path, pictures: Path, tmp_path: Path, capsys
) -> None:
    for given in (checkpoint, checkpoint.parent):
        out = tmp_path / "found"
        assert (
            main(["predict", str(given), str(pictures), "--threshold", "0", "--out", str(out)]) == 0
        )
        found = json.loads((out / "predictions.json").read_text())
        assert found["model"] == str(checkpoint)
        assert [len(image["detections"]) > 0 for image in found["images"]] == [True, True]
    capsys.readouterr()


@pytest.mark.parametrize(
    "command",
    [
        ["lint"],
        ["bundle", "--golden", "a.png", "--out", "x"],
        ["bench", "--data", "val.json"],
    ],
)
def test_a_command_for_exported_models_says_how_to_export(
    checkpoint: Path, command: list[str], capsys
) -> None:
    name, *options = command
    assert main([name, str(checkpoint), *options]) == 6
    assert f"`slimdet build {checkpoint} --precision fp32" in capsys.readouterr().err


def test_the_module_below_points_to_the_command(checkpoint: Path, tmp_path: Path, capsys) -> None:
    from export.build import main as build

    assert build([str(checkpoint), "--precision", "fp32", "--out", str(tmp_path)]) == 6
    assert "is a checkpoint; use `slimdet build`" in capsys.readouterr().err
