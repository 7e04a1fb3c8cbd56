"""Runs and bundles that were made before the sources moved into folders still work.

`made_before/` was written by the version before (commit a9f0abd): a smoke run killed after the
first of 12 steps of its student, the student that the same recipe gave there uninterrupted, and
the bundle of a finished run.
"""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import slimdet
from compress.parts.weights import read_metadata
from compress.run import main
from export.verify import main as verify

MADE = Path(__file__).with_name("made_before")


def extract(archive: str, folder: Path) -> None:
    with tarfile.open(MADE / archive) as opened:
        opened.extractall(folder, filter="data")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_an_interrupted_run_is_finished_and_its_finished_models_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract("interrupted_run.tar.xz", tmp_path)
    models = tmp_path / "smoke" / "models"
    before = contents(models)
    assert main([str(tmp_path / "recipe.yaml"), "train.steps=12", "--runs", str(tmp_path)]) == 0
    assert "from step 1 of 12" in capsys.readouterr().err
    after = contents(models)
    assert {name: after[name] for name in before} == before
    record = json.loads(after["seed0-student/training.json"])
    assert record["steps"] == 12
    assert (tmp_path / "smoke" / "report" / "report.json").is_file()
    expected = load_file(MADE / "student.safetensors")
    found = load_file(models / "seed0-student" / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        # not bit for bit: another processor sums in another order
        torch.testing.assert_close(found[name], weights, rtol=1e-3, atol=1e-4)


def test_another_recipe_is_still_refused_for_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extract("interrupted_run.tar.xz", tmp_path)
    assert main([str(tmp_path / "recipe.yaml"), "train.steps=13", "--runs", str(tmp_path)]) == 2
    assert "train.steps: 12" in capsys.readouterr().err


@pytest.mark.slow
def test_a_bundle_is_verified_by_this_version_and_by_its_own_script(tmp_path: Path) -> None:
    extract("bundle.tar.gz", tmp_path)
    (bundle,) = (path.parent for path in tmp_path.rglob("verify.py"))
    assert verify([str(bundle)]) == 0
    own = subprocess.run([sys.executable, bundle / "verify.py"], capture_output=True, text=True)
    assert own.returncode == 0, own.stdout + own.stderr


def test_a_model_from_before_metadata_is_rebuilt_from_its_run_folder(tmp_path: Path) -> None:
    extract("interrupted_run.tar.xz", tmp_path)
    for name in ("teacher", "seed0-baseline"):
        file = tmp_path / "smoke" / "models" / name / "model.safetensors"
        assert read_metadata(file) is None
        with slimdet.load(file) as model:
            assert model.classes == ("disk", "ring", "square", "triangle", "star", "cross")
            assert (model.manifest.input.height, model.manifest.model) == (64, name)
            (found,) = model.predict(np.zeros((64, 64, 3), np.uint8), threshold=0.0)
            assert len(found) > 0
    moved = shutil.copy(file, tmp_path / "model.safetensors")
    with pytest.raises(slimdet.ExportError, match="Put it back into its run folder"):
        slimdet.load(moved)
    (tmp_path / "smoke" / "recipe.lock.json").unlink()
    with pytest.raises(slimdet.ExportError, match="holds tensors without a description"):
        slimdet.load(file)
