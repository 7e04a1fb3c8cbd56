"""The two RoIAligns against torchvision's eager model, without asking how long anything took."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.studies.roi_align import main, run, table
from benchmarks.studies.two_stage import EAGER, FORMS, Trained, open_trained
from benchmarks.timing.latency import BenchmarkConfig
from compress.console import Console
from compress.data.config import Data
from compress.parts.weights import save_weights
from compress.recipe import load_recipe
from compress.stages.opened import Run
from compress.stages.session import Session
from export.errors import RecipeError

RECIPE = """\
schema: 1
name: tried
data: {type: shapes, image_size: [128, 160], train: {count: 32}, val: {count: 6}}
teacher: {detector: {type: gfl, backbone: resnet18}, train: {steps: 1, batch: 1}}
distill: []
student:
  type: faster_rcnn
  backbone: {type: slim_resnet, stem: 16, widths: [16, 16, 16, 16]}
  width: 16
  head_width: 32
  strides: [8, 16, 32]
  rois_per_image: 32
train: {steps: 1, batch: 4}
"""


def finished(folder: Path) -> Data:
    """Fill a run's folder with a student whose scores and boxes vary; return its data.

    Its weights are drawn, not trained: after a short training many proposals overlap by nearly the
    same amount, and a rounding that differs between processors decides which of them NMS keeps.
    """
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    path = folder / "recipe.yaml"
    recipe, source = load_recipe(path)
    run = Run.open(Session(folder, "cpu", Console(quiet=True)), recipe, source)
    lock = folder / "recipe.lock.json"
    lock.write_text(json.dumps(recipe.resolved()), encoding="utf-8")
    weights = run.build_student(seed=0).state_dict()
    generator = torch.Generator().manual_seed(0)
    for name, value in weights.items():
        if name.startswith("head.") and name.endswith(".weight"):
            inputs = value[0].numel()
            value.add_(torch.randn(value.shape, generator=generator) * 0.5 * (2 / inputs) ** 0.5)
    model_folder = folder / "models" / "seed0-student"
    model_folder.mkdir(parents=True)
    save_weights(weights, model_folder / "model.safetensors")
    return run.data


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_both_graphs_detect_what_eager_torchvision_does(tmp_path: Path) -> None:
    data = finished(tmp_path)
    config = BenchmarkConfig(blocks=2, calls_per_block=1, warmup=1, images=2, threads=1)
    result = run(open_trained(tmp_path), data.val, (50,), config)
    entry = result["proposals"]["50"]
    for form in FORMS:
        parity = entry["against_eager"][form]
        assert parity["matched"] > 500
        assert parity["missing"] == parity["extra"] == 0
        assert parity["max_score_difference"] < 1e-4
        assert parity["max_box_difference_px"] < 1e-2
    assert set(entry["latency_ms"]) == {EAGER, *FORMS}
    assert set(entry["ratios"]["masked over atlas"]) == {"engine", "end_to_end"}
    assert 0 < entry["proposals_of_torchvision"]["most"] <= 50
    assert str(tmp_path) not in json.dumps(result)
    assert "end_to_end" in table(result)


def test_a_run_is_found_from_its_folder_its_model_and_its_weights(tmp_path: Path) -> None:
    finished(tmp_path)
    model_folder = tmp_path / "models" / "seed0-student"
    for path in (tmp_path, model_folder, model_folder / "model.safetensors"):
        found = open_trained(path)
        assert isinstance(found, Trained)
        assert (found.name, found.weights) == ("seed0-student", model_folder / "model.safetensors")


def test_what_is_no_finished_faster_rcnn_is_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.lock\.json"):
        open_trained(tmp_path)
    finished(tmp_path)
    with pytest.raises(RecipeError, match="name a finished run"):
        open_trained(tmp_path / "models" / "seed1-student")
    teacher = tmp_path / "models" / "teacher"
    teacher.mkdir()
    (teacher / "model.safetensors").touch()
    assert main([str(teacher), "--data", "nowhere.json"]) == 2
    classifier = teacher.rename(teacher.with_name("classifier"))
    with pytest.raises(RecipeError, match="'classifier' is not the name of a model"):
        open_trained(classifier)
    assert "a gfl; only faster_rcnn pools RoIs" in capsys.readouterr().err
