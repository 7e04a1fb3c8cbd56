"""`teach` in a recipe: the store is made once, training reads it, the report says what it cost."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.timing.step_ratio import StepRatio, TeachingCost
from compress.run import main, teach
from compress.stages.rundir import read_record, read_step_ratio, read_teaching_costs
from export.errors import RecipeError
from tests.compress.smoke import assert_refused, write_smoke

FROM_STORE = ["distill=[{type: pkd}, {type: bckd}]", "teach={views: 2}"]


@pytest.mark.slow
def test_a_store_is_made_once_and_the_report_says_what_it_cost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "r"
    command = [str(write_smoke(tmp_path)), *FROM_STORE, "baseline.equal_time=true", "--runs"]
    assert main([*command, str(runs), "--check"]) == 0
    assert "teach: outputs of the teacher on 16 views take" in capsys.readouterr().err
    assert not runs.exists()
    assert teach([*command, str(runs), "--json"]) == 0
    said: dict[str, Any] = json.loads(capsys.readouterr().out)
    home = runs / "smoke"
    cost = read_teaching_costs(home)["teacher"]
    # 8 pictures in 2 views each; 4 steps of 4 pictures pass as many
    assert (cost.views, cost.passes) == (16, 16)
    assert said["teach"]["teacher"]["bytes"] == cost.bytes > 0
    assert not (home / "models" / "seed0-student").exists()
    (store,) = (runs / ".teach").iterdir()
    made = (store / "part-00000.safetensors").stat().st_mtime_ns
    assert main([*command, str(runs)]) == 0
    assert (store / "part-00000.safetensors").stat().st_mtime_ns == made
    assert read_teaching_costs(home)["teacher"] == cost
    ratio = read_step_ratio(home)
    assert ratio is not None
    longer = read_record(home / "models" / "seed0-baseline_equal_time")
    assert longer.steps == ratio.plain_steps(4, cost.ms)
    notes = json.loads((home / "report" / "report.json").read_text())["notes"]
    assert any(note.startswith("Outputs of the teacher: 16 views passed the") for note in notes)
    assert any("and storing the outputs of the teacher as much as" in note for note in notes)


def test_the_cost_of_teaching_counts_as_steps_and_says_when_it_is_paid() -> None:
    part = {"name": "s", "steps": 10, "ratio": 1.1, "ci95": (1.0, 1.2), "rounds": 10}
    part |= {"plain_ms": 20.0, "distilled_ms": 22.0}
    known = {"ratio": 1.1, "ci95": (1.0, 1.2), "clock": "c", "device": "cpu", "threads": 1}
    ratio = StepRatio.model_validate({**known, "parts": [part]})
    assert ratio.plain_steps(100) == 110
    assert ratio.plain_steps(100, once_ms=1000.0) == 160
    cost = TeachingCost(views=2400, bytes=2400 * 1024, ms=1000.0, passes=4800)
    assert cost.sentence() == (
        "2400 views passed the teacher once, which cost 1 s and stored 2.34 MiB (1 KiB a view); a "
        "teacher in every step would pass 4800 per training, so the cost is paid after one training"
    )
    assert cost.model_copy(update={"passes": 1000}).sentence().endswith("paid after 2.4 trainings")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["teach={views: 2}", "distill=[{type: pkd}, {type: crosskd}]"],
            "crosskd compares towers, which cannot be stored",
        ),
        (["teach={views: 2}", "distill=[]"], "teach: is for the teachers of a recipe with distill"),
        (["teach={views: 0}"], "teach.views: expected"),
        (["teach={views: 2, store: x}"], "teach.store: "),
    ],
)
def test_a_recipe_that_cannot_store_is_refused(
    overrides: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(tmp_path, capsys, overrides, RecipeError.exit_code, said)


def test_the_command_needs_a_recipe_that_stores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert teach([str(write_smoke(tmp_path)), "--runs", str(tmp_path / "r")]) == 2
    assert "found no teach, teacher and distill, all of which" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
