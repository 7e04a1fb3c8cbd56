"""The gain table: its figures, its methods, and one small table made for real."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.studies.gain import METHODS, in_force, main, read_methods
from benchmarks.studies.gain_plot import draw_gains
from benchmarks.studies.gain_table import (
    Costs,
    EqualTime,
    Gains,
    MethodGain,
    StepCost,
    StudentRecord,
    Table,
    gain,
)
from compress.recipe import load_recipe
from export.errors import RecipeError
from tests.compress.smoke import write_smoke

ROOT = Path(__file__).resolve().parents[3]


def test_a_gain_is_the_mean_of_paired_differences_with_students_t_interval() -> None:
    found = gain([0.50, 0.60, 0.40], [0.48, 0.56, 0.37])
    assert found["per_seed"] == pytest.approx([0.02, 0.04, 0.03])
    assert found["mean"] == pytest.approx(0.03)
    # standard deviation 0.01, t(2) = 4.302653: 4.302653 * 0.01 / sqrt(3) = 0.024841
    assert found["ci95"] == pytest.approx((0.03 - 0.024841, 0.03 + 0.024841), abs=1e-6)
    assert found["verdict"] == "proven"


def test_methods_come_from_names_files_and_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("two: [{type: pkd}, {type: gid, weight: auto}]")
    found = read_methods(["fgd", f"{tmp_path}/mine.yaml", "one=[{type: mse, weight: 2}]"])
    assert found == {
        "fgd": read_methods([])["fgd"],
        "two": [{"type": "pkd"}, {"type": "gid", "weight": "auto"}],
        "one": [{"type": "mse", "weight": 2}],
    }
    for wrong in ("fdg", "one={type: mse}", "one=[mse]"):
        with pytest.raises(RecipeError, match="type"):
            read_methods([wrong])


def test_all_methods_are_present() -> None:
    assert list(read_methods([])) == ["defeat", "gid", "fgd", "icd", "pkd", "bckd"]


@pytest.mark.parametrize("path", sorted(METHODS.parent.glob("*_*.yaml")), ids=lambda p: p.stem)
def test_base_recipes_load(path: Path) -> None:
    recipe, _ = load_recipe(path, ["data.root=elsewhere"])
    assert recipe.name == path.stem
    assert recipe.seeds == 3


@pytest.mark.slow
def test_a_picture_is_drawn_with_and_without_intervals(tmp_path: Path) -> None:
    one, three = gain([0.5], [0.4]), gain([0.5, 0.6, 0.4], [0.4, 0.5, 0.5])
    costs: Costs = {"steps": 1, "step_ms": 1.0, "parameters": None}
    plain: StudentRecord = {"ap_onnx": [0.4, 0.5, 0.5], "ap_torch": [0.4, 0.5, 0.5], **costs}
    cost: StepCost = {"ratio": 1.5, "ci95": (1.4, 1.6), "clock": ""}
    longer: EqualTime = {"gain": one, "gain_torch": one, **plain, "step_ratio": cost}
    pkd: MethodGain = {"distill": [], "gain": one, "gain_torch": one, **plain, "equal_time": None}
    fgd: MethodGain = {**pkd, "gain": three, "equal_time": longer}
    table: Table = {
        "recipe": "small",
        "regime": "few",
        "labels": 41,
        "unlabeled": 0,
        "teacher": {"ap_onnx": 0.6, "ap_torch": 0.6, **costs},
        "plain": plain,
        "methods": {"fgd": fgd, "pkd": pkd},
        "failed": {},
        "environment": {},
    }
    content: Gains = {"schema": 1, "data": "cells", "tables": {"small/few": table}}
    path = draw_gains(content, tmp_path / "gain.png")
    with Image.open(path) as picture:
        assert picture.width > 1000


@pytest.mark.slow
def test_a_table_compares_students_of_the_same_labels_seed_by_seed(tmp_path: Path) -> None:
    recipe = write_smoke(tmp_path)
    nothing = "nothing=[{type: gid, feature_weight: 0, relation_weight: 0, response_weight: 0}]"
    command = [str(recipe), "--methods", "defeat", nothing, "--regimes", "few", "--equal-time"]
    command += ["--set", "data.train={count: 24}", "--set", "train.steps=2", "--data", "drawn"]
    short = "repeats: 1, blocks: 2, calls_per_block: 2, images: 2, throughput_s: 0.01"
    command += ["--set", f"benchmark={{{short}}}"]
    command += ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(command) == 1  # one method was refused
    path = tmp_path / "out" / "gain_drawn.json"
    found = json.loads(path.read_text())["tables"]["recipe/few"]
    assert (found["labels"], found["unlabeled"]) == (5, 19)  # a fifth of 24, and the rest
    assert "all weights are 0" in found["failed"]["nothing"]
    method = found["methods"]["defeat"]
    assert method["steps"] == found["plain"]["steps"] == 2
    longer = method["equal_time"]
    assert longer["steps"] == round(2 * longer["step_ratio"]["ratio"])
    assert method["gain"]["per_seed"] == [method["ap_onnx"][0] - found["plain"]["ap_onnx"][0]]
    assert path.with_suffix(".png").is_file()


def test_of_settings_of_one_key_the_last_is_in_force() -> None:
    given = ["train.steps=4", "seeds=1", "train.steps=9", "train={lr: 1}"]
    assert in_force(given) == ["seeds=1", "train.steps=9", "train={lr: 1}"]
