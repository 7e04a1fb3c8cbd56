"""The plan of a run, and the estimate of its time."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.data.shapes import STYLES
from benchmarks.timing.load import LoadWatch
from compress.plan import Cost, Pass, Stage, _student_stages, _why_useless, memory_warnings
from compress.run import main
from export.atomic import write_json
from tests.benchmarks.data.tiny import coco, write_coco
from tests.compress.smoke import opened_smoke, write_smoke

ROOT = Path(__file__).resolve().parents[2]
EQUAL_TIME = "baseline.equal_time=true"


def checked(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    command = [str(write_smoke(folder)), "--json", "--runs", str(folder / "r"), *arguments]
    assert main(command) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["check"]
    return found


def test_a_check_times_nothing_and_still_says_steps_parameters_and_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = checked(tmp_path, capsys, "--check", EQUAL_TIME)
    assert {stage["minutes"] for stage in said["stages"]} == {None}
    assert all(stage["memory_gib"] > 0 for stage in said["stages"])
    assert all(stage["parameters"] > 0 for stage in said["stages"])
    steps = {stage["name"]: stage["steps"] for stage in said["stages"]}
    assert steps.pop("seed0-baseline_equal_time") is None
    assert all(count > 0 for count in steps.values())
    assert said["time"].startswith("training time: not estimated (--estimate times ")


@pytest.mark.slow
def test_what_a_teachers_own_data_holds_and_leaves_out_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = STYLES["standard"].classes
    for split, start in (("train", 1), ("val", 101)):
        document = coco(4, ids=tuple(range(1, len(classes) + 1)), start=start)
        for entry, name in zip(document["categories"], classes, strict=True):
            entry["name"] = name
        document["annotations"][1]["bbox"] = [4, 5, 0, 0]
        write_coco(tmp_path / "own", split, document)
    own = f"teacher.data={{type: folder, root: {tmp_path / 'own'}, image_size: 64}}"
    said = checked(tmp_path, capsys, "--check", own)["data"]
    assert said[0] == "data: shapes"
    place = said.index("data of teacher: coco")
    assert any("4 objects written, 3 kept, 1 left out: 1 no area" in x for x in said[place:])
    assert not any("no area" in x for x in said[:place])
    drawn = {"type": "shapes", "image_size": 64, "train": {"count": 30}, "val": {"count": 4}}
    said = checked(tmp_path, capsys, "--check", f"teacher.data={json.dumps(drawn)}")["data"]
    assert said[-2].endswith("split train, 30 drawn pictures")
    drawn["train"] = {"split": "val", "count": 4}
    said = checked(tmp_path, capsys, "--check", f"teacher.data={json.dumps(drawn)}")["data"]
    assert any("4 pictures of val are also in teacher train" in line for line in said)
    said = checked(tmp_path, capsys, "--check")["data"]
    assert not any("teacher" in line for line in said)


def test_an_estimate_is_minutes_of_every_stage_or_the_reason_why_there_are_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = checked(tmp_path, capsys, "--estimate", "--device", "cpu", EQUAL_TIME)
    minutes = [stage["minutes"] for stage in said["stages"]]
    if said["time"].startswith("about "):
        assert all(one > 0 for one in minutes)
        assert all(stage["steps"] > 0 for stage in said["stages"])
    else:
        assert said["time"].startswith("no estimate of the time: ")
        assert set(minutes) == {None}
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_no_minutes_are_told_while_another_program_takes_half_of_the_processor(
    tmp_path: Path,
) -> None:
    code = """
import os, subprocess, sys
from compress.plan import plan
from compress.run import main
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
    try:
        code = main(sys.argv[1:])
    finally:
        other.kill()
sys.exit(code)
"""
    arguments = [str(write_smoke(tmp_path)), "--estimate", "--json", "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["check"]
    assert "other programs used" in said["time"]
    assert {stage["minutes"] for stage in said["stages"]} == {None}


def test_a_pass_that_waited_for_its_turn_gives_no_estimate() -> None:
    cpu = torch.device("cpu")
    assert _why_useless(LoadWatch.start(), [Pass(1.0, 1.0), Pass(1.0, 0.4)], cpu)


def test_the_longest_baseline_trains_as_long_as_the_student_and_its_teacher_think(
    tmp_path: Path,
) -> None:
    run = opened_smoke(tmp_path, EQUAL_TIME)
    costs = [Cost(1.0, 1e6), Cost(2.0, 1e6)]  # of a student's pass, of a teacher's
    baseline, student, longer = _student_stages(run, 0, run.build_student(seed=0), costs)
    assert baseline.minutes is not None
    assert baseline.steps is not None
    # a step is three passes of the student, and one of the teacher where there is one
    assert student.minutes == pytest.approx(baseline.minutes * 5 / 3)
    assert longer.minutes == student.minutes
    assert longer.steps == round(baseline.steps * 5 / 3)


def test_pictures_without_labels_and_a_stored_teacher_count_in_the_estimate(tmp_path: Path) -> None:
    costs = [Cost(1.0, 1e6), Cost(2.0, 1e6)]
    also = ("data.unlabeled={count: 12}", "train.labeled_batch=2", "train.unlabeled_batch=6")
    run = opened_smoke(tmp_path, EQUAL_TIME, *also)
    baseline, student, _ = _student_stages(run, 0, run.build_student(seed=0), costs)
    assert baseline.minutes is not None
    # 8 pictures in place of 4, and the teacher's pass
    assert student.minutes == pytest.approx(baseline.minutes * 2 * 5 / 3)
    run = opened_smoke(tmp_path, EQUAL_TIME, *also, "distill=[{type: pkd}]", "teach={views: 2}")
    _, student, _ = _student_stages(run, 0, run.build_student(seed=0), costs)
    assert student.minutes == pytest.approx(baseline.minutes * 2)


def test_the_plan_of_a_begun_run_takes_the_ratio_that_it_has_recorded(tmp_path: Path) -> None:
    run = opened_smoke(tmp_path, EQUAL_TIME)
    run.home.mkdir()
    part = {"name": "seed0-student", "steps": 4, "ratio": 1.6, "ci95": (1.5, 1.7), "rounds": 10}
    part |= {"plain_ms": 10.0, "distilled_ms": 16.0}
    record = {"ratio": 1.6, "ci95": (1.5, 1.7), "clock": "", "device": "cpu", "threads": 1}
    write_json({**record, "parts": [part]}, run.home / "equal_time.json")
    unknown = [Cost(None, 1e6), Cost(None, 1e6)]
    longer = _student_stages(run, 0, run.build_student(seed=0), unknown)[-1]
    assert (longer.steps, longer.minutes) == (6, None)  # 4 steps times 1.6
    _, _, longer = _student_stages(
        run, 0, run.build_student(seed=0), [Cost(1.0, 1e6), Cost(9.0, 1e6)]
    )
    assert longer.steps == 6


def test_a_stage_is_told_with_its_minutes_if_they_are_known() -> None:
    stage = Stage("teacher", 950, 562_000, 0.1, None)
    assert stage.line() == "  teacher: 950 steps, 0.562M parameters, about 0.1 GiB"
    timed = Stage("teacher", 950, 562_000, 0.1, 2.54)
    assert timed.line() == "  teacher: 950 steps, 0.562M parameters, about 0.1 GiB, about 2.5 min"
    assert (
        "as many steps as cost the same as the student's" in Stage("b", None, 1, 0.1, None).line()
    )


def test_a_training_larger_than_the_machine_is_told() -> None:
    stages = [Stage("teacher", 1, 1, 2.0, None), Stage("seed0-student", 1, 1, 30.0, None)]
    assert memory_warnings(stages, None) == memory_warnings(stages, 31 * 2**30) == []
    (said,) = memory_warnings(stages, 16 * 2**30)
    assert said.startswith("WARNING: seed0-student takes about 30 GiB, and this machine has 16;")
