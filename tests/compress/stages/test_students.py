"""Equal time: what a distilled step costs, measured before the students train."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.parts.weights import weights_hash
from compress.stages.opened import Run
from compress.stages.rundir import read_step_ratio
from compress.stages.students import StudentTraining
from compress.training.seals import seal_of, write_sealed_json
from tests.compress.smoke import assert_refused, opened_smoke

EQUAL_TIME = "baseline.equal_time=true"
# terms that are at rest in the first half, so that the schedule has two parts
HALF = "distill=[{type: defeat, start: 0.5}, {type: gid, min_size_px: 2, start: 0.5}]"


def students_of(run: Run) -> StudentTraining:
    return StudentTraining(run, [(teacher, teacher.build(0)) for teacher in run.teachers], None)


@pytest.mark.slow
def test_the_cost_of_a_distilled_step_is_measured_once_and_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened_smoke(tmp_path, EQUAL_TIME, "data.augment.mosaic=0.5", quiet=False)
    run.home.mkdir()
    training = students_of(run)
    torch.manual_seed(5)
    state, teacher = torch.get_rng_state(), weights_hash(training.teachers[0][1])
    found = training.equal_time(most=2)
    assert found.ratio > 1
    assert found.ci95[0] <= found.ratio <= found.ci95[1]
    assert [(part.name, part.steps, part.rounds) for part in found.parts] == [
        ("seed0-student", 4, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert weights_hash(training.teachers[0][1]) == teacher
    record = run.home / "equal_time.json"
    assert set(run.home.iterdir()) == {record, seal_of(record)}
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "a distilled step costs " in said

    kept = json.loads(record.read_text())
    write_sealed_json({**kept, "ratio": 7.5}, record)
    assert training.equal_time().ratio == 7.5
    assert students_of(run).equal_time().ratio == 7.5


@pytest.mark.slow
def test_losses_that_rest_for_a_part_of_the_run_cost_nothing_there(tmp_path: Path) -> None:
    run = opened_smoke(tmp_path, EQUAL_TIME, HALF)
    run.home.mkdir()
    found = students_of(run).equal_time(most=2)
    resting, active = found.parts
    assert (resting.steps, active.steps) == (2, 2)
    assert resting.ratio < active.ratio
    assert found.ratio == pytest.approx((resting.ratio + active.ratio) / 2)
    assert read_step_ratio(run.home) == found


@pytest.mark.slow
def test_students_are_bit_for_bit_those_of_a_run_that_measured_nothing(tmp_path: Path) -> None:
    trained = {}
    for asked in ("true", "false"):
        folder = tmp_path / asked
        folder.mkdir()
        run = opened_smoke(folder, f"baseline.equal_time={asked}", "student.norm=batch")
        folders = students_of(run).train(0, {})
        trained[asked] = {
            str(name): target / "model.safetensors" for name, target in folders.items()
        }
        assert (read_step_ratio(run.home) is not None) == (asked == "true")
    assert trained["true"].keys() - trained["false"].keys() == {"seed0-baseline_equal_time"}
    for name, path in trained["false"].items():
        alone, measured = load_file(path), load_file(trained["true"][name])
        assert any("running_var" in key for key in alone)  # BatchNorm's statistics are compared too
        assert all(torch.equal(alone[key], measured[key]) for key in alone), name


def test_a_student_starts_from_what_fits_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = opened_smoke(tmp_path).build_student(3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    run = opened_smoke(tmp_path, f"student.transfer={tmp_path / 'w.safetensors'}", quiet=False)
    student, before = students_of(run)._first(0), run.build_student(0)
    own, theirs = student.state_dict(), source.state_dict()
    anew = {"head.class_logits.weight", "head.class_logits.bias"}  # the file names no classes
    for name in own:
        expected = before.state_dict() if name in anew else theirs
        assert torch.equal(own[name], expected[name])
    assert "transferred from" in capsys.readouterr().err


def test_a_file_to_transfer_is_refused_at_check_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "w.safetensors")
    told = [f"student.transfer={tmp_path / 'w.safetensors'}"]
    assert_refused(tmp_path, capsys, told, 2, "student.transfer: ")
    told.append(f"student.weights={tmp_path / 'w.safetensors'}")
    assert_refused(tmp_path, capsys, told, 2, "not both")
