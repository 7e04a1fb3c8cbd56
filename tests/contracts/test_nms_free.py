"""A family whose head gives one box per object, made of code under another licence, passes through.

The run is mixed: its teacher needs NMS, its student and baseline do not.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import predict, verify
from export.artifact.manifest import NOTICE, Manifest, file_sha256, read_manifest
from export.detections import overlapping
from export.engine import detect, open_engine
from tests.compress.smoke import SMOKE
from tests.contracts.checkout import Checkout, copy_to
from tests.contracts.test_toy_detector import TOY, with_detector

LICENCE = "toyware 1.2 (GPL-3.0)"
SAID = f"This run used {LICENCE}."
GIVEN = 20  # boxes per picture

# `toy` with a head that ends in the best boxes, each twice: NMS would drop half of them
FREE = TOY.replace(
    'locations="cells",', f'locations="cells", nms_free=True, licence="{LICENCE}",'
).replace(
    "        return dense_candidates(\n"
    '            scores, raw["distances"], self.level_counts, self.pre_nms, self._decode, '
    "self.input_size\n"
    "        )\n",
    "        found = dense_candidates(\n"
    '            scores, raw["distances"], self.level_counts, self.pre_nms, self._decode, '
    "self.input_size\n"
    "        )\n"
    f"        best, order = found.scores.topk({GIVEN // 2}, dim=1)\n"
    "        best, order = torch.cat((best, best), dim=1), torch.cat((order, order), dim=1)\n"
    "        boxes = found.boxes.gather(1, order[..., None].expand(-1, -1, 4))\n"
    "        return Candidates(boxes, best, found.labels.gather(1, order))\n",
)
STUDENT = """\
student:
  type: toy
  backbone: {type: slim_resnet, stem: 16, widths: [16, 16, 16, 16]}
  width: 16
  strides: [8, 16]
distill: [{type: mse}]
"""
RECIPE = (
    SMOKE[: SMOKE.index("student:")]
    + STUDENT
    + SMOKE[SMOKE.index("train: {steps") :].replace("[fp32]", "[fp32, fp16, int8]")
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    made = with_detector(copy_to(tmp_path_factory.mktemp("nms_free")), FREE)
    (made.root / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def said(checkout: Checkout) -> str:
    """Everything that the run printed."""
    return checkout.python("-m", "compress.run", "recipe.yaml", "--runs", "runs")


@pytest.fixture(scope="module")
def home(checkout: Checkout, said: str) -> Path:
    assert "bundle for the device" in said
    return checkout.root / "runs" / "smoke"


@pytest.fixture(scope="module")
def sidecars(home: Path) -> Mapping[str, Manifest]:
    return {path.parent.name: read_manifest(path) for path in home.glob("export/*/model.json")}


def test_each_model_gets_the_nms_that_its_own_head_needs(sidecars: Mapping[str, Manifest]) -> None:
    modes = {name: manifest.nms.mode for name, manifest in sidecars.items()}
    assert modes == {
        "teacher-fp32": "host",
        "seed0-baseline-fp32": "none",
        "seed0-student-fp32": "none",
        "seed0-student-fp16": "none",
        "seed0-student-int8": "none",
    }
    assert sidecars["teacher-fp32"].nms.iou == 0.6
    assert sidecars["seed0-student-int8"].nms.iou == 1  # drops nothing, should a client suppress


def test_overlapping_boxes_of_one_class_are_all_kept(home: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    with open_engine(home / "export/seed0-student-fp32/model.onnx", threads=1) as engine:
        (found,) = detect(engine, [picture], 0.0)
    assert len(found.scores) == GIVEN
    assert overlapping(found.boxes, found.labels, 0.6).sum() >= 2 * GIVEN  # its copy and itself


def test_the_bundle_says_that_no_nms_is_to_be_run_and_verifies(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = home / "bundle"
    text = (bundle / "README.md").read_text(encoding="utf-8")
    assert text.count("| not needed |") == 3
    assert "3. Drop none: the model gives one box per object" in text
    assert "where the table above says client for NMS" not in text.lower()
    thresholds = json.loads((bundle / "thresholds.json").read_text(encoding="utf-8"))
    assert (thresholds["nms"], thresholds["nms_iou"]) == ("none", 1)
    assert verify.main([str(bundle), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["result"] for result in results] == ["ok"] * 3


def test_a_bundle_whose_thresholds_ask_for_nms_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    copy = tmp_path / "changed"
    shutil.copytree(home / "bundle", copy)
    changed = (copy / "thresholds.json").read_text(encoding="utf-8").replace("none", "host")
    (copy / "thresholds.json").write_text(changed, encoding="utf-8")
    content = json.loads((copy / "bundle.json").read_text(encoding="utf-8"))
    content["files"]["thresholds.json"] = file_sha256(copy / "thresholds.json")
    (copy / "bundle.json").write_text(json.dumps(content), encoding="utf-8")
    assert verify.main([str(copy)]) != 0
    assert 'nms is "host"; expected "none"' in capsys.readouterr().err


def test_predict_draws_what_the_model_gives(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    golden = home / "bundle" / "golden" / "photograph.png"
    given = ["--threshold", "0.0001", "--json", "--out", str(tmp_path / "seen")]
    assert predict.main([str(home / "bundle"), str(golden), *given]) == 0
    assert len(json.loads(capsys.readouterr().out)) > 0


def test_a_checkpoint_becomes_the_same_model_whatever_its_recipe_asks(checkout: Checkout) -> None:
    """The recipe's `nms: matrix` is for other models of the run; it needs no pictures here."""
    script = """
import json
from pathlib import Path
from compress.parts.weights import read_metadata
from safetensors.torch import load_file, save_file
path = Path("runs/smoke/models/seed0-student/model.safetensors")
metadata = json.loads(read_metadata(path))
metadata["recipe"]["export"]["nms"] = "matrix"
save_file(load_file(path), "model.safetensors", {"slimdet": json.dumps(metadata)})
from slimdet.checkpoint import checkpoint_to_onnx
checkpoint_to_onnx(Path("model.safetensors"), Path("onnx"))
import slimdet
with slimdet.load("model.safetensors") as model:
    assert model.manifest.nms.mode == "none"
    assert len(model.predict("runs/smoke/bundle/golden/photograph.png", 0.0)[0].boxes) == 20
"""
    shutil.copytree(Path(__file__).parents[2] / "slimdet", checkout.root / "slimdet")
    checkout.python("-c", script)
    manifest = read_manifest(checkout.root / "onnx" / "model.json")
    assert manifest.nms.mode == "none"
    assert manifest.made_by["toyware"] == "1.2 (GPL-3.0)"


def test_more_boxes_than_the_head_gives_are_refused_by_check(checkout: Checkout) -> None:
    given = ["recipe.yaml", "export.max_detections=21", "--check", "--runs", "none"]
    printed = checkout.python("-m", "compress.run", *given, fails=True)
    assert (
        "command line: export.max_detections=21: export.max_detections: 21, but the head" in printed
    )
    assert "of the student (toy) gives 20 boxes per picture; set at most 20" in printed
    assert printed.count("\n") == 1
    assert not (checkout.root / "none").exists()


def test_the_licence_is_told_when_the_run_begins_and_by_check(
    checkout: Checkout, said: str
) -> None:
    assert said.count(SAID) == 1
    assert said.index(SAID) < said.index("teacher: 2 steps")
    checked = checkout.python("-m", "compress.run", "recipe.yaml", "--check")
    assert checked.count(SAID) == 1
    assert checked.count("; needs no NMS\n") == 1


def test_the_licence_is_in_sidecars_report_and_bundle(
    home: Path, sidecars: Mapping[str, Manifest]
) -> None:
    for name, manifest in sidecars.items():
        assert (NOTICE in manifest.made_by) == (name != "teacher-fp32")
    student = sidecars["seed0-student-int8"]
    assert student.made_by["toyware"] == "1.2 (GPL-3.0)"
    assert student.made_by[NOTICE].startswith(SAID)
    report: dict[str, Any] = json.loads((home / "report/report.json").read_text(encoding="utf-8"))
    assert [note.startswith(SAID) for note in report["notes"]].count(True) == 1
    for file in ("report/report.md", "report/report.html", "bundle/README.md"):
        text = (home / file).read_text(encoding="utf-8").replace("\\", "")
        assert text.count(SAID) == 1, file


def test_the_report_says_which_models_have_no_nms(home: Path) -> None:
    text = (home / "report" / "report.md").read_text(encoding="utf-8")
    assert "Without NMS, as their heads give one box per object: baseline, student." in text
