"""A run of a YOLO11s and a YOLO11n passes through every stage, to a bundle that verifies."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.detectors.ultralytics_parts.installed import is_installed
from compress.run import main
from export import verify
from export.artifact.manifest import Manifest, read_manifest
from export.engine import open_engine
from tests.compress.smoke import SMOKE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed"),
]
RECIPE = (
    SMOKE[: SMOKE.index("teacher:")].replace("image_size: 64", "image_size: [64, 96]")
    + """\
teacher:
  detector: {type: yolo, model: yolo11s}
  train: {steps: 2, batch: 4, evaluations: 1, amp: "off"}
student: {type: yolo, model: yolo11n}
distill: [{type: pkd, weight: auto}]
baseline: {enabled: false}
"""
    + SMOKE[SMOKE.index("train: {steps") :].replace("[fp32]", "[fp32, int8], dynamic_batch: true")
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("yolo")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    assert main([str(folder / "recipe.yaml"), "--runs", str(folder / "runs")]) == 0
    return folder / "runs" / "smoke"


def sidecars(home: Path) -> dict[str, Manifest]:
    return {path.parent.name: read_manifest(path) for path in home.glob("export/*/model.json")}


def test_a_rectangle_is_exported_with_batches_of_any_size(home: Path) -> None:
    manifest = sidecars(home)["seed0-student-int8"]
    assert (manifest.input.height, manifest.input.width) == (64, 96)
    assert manifest.input.dynamic_batch
    assert manifest.nms.mode == "host"
    for precision in ("fp32", "int8"):
        model = home / "export" / f"seed0-student-{precision}" / "model.onnx"
        with open_engine(model, threads=1) as engine:
            for count in (1, 3):
                images = np.zeros((count, 3, 64, 96), np.float32)
                assert len(engine.candidates(images).scores) == count


def test_every_model_states_the_package_and_its_licence(home: Path) -> None:
    found = sidecars(home)
    assert found.keys() == {"teacher-fp32", "seed0-student-fp32", "seed0-student-int8"}
    for manifest in found.values():
        assert "AGPL-3.0" in manifest.made_by["ultralytics"]


def test_the_bundle_verifies(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main([str(home / "bundle"), "--json"]) == 0
    results: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["results"]
    assert [one["result"] for one in results] == ["ok", "ok"]
