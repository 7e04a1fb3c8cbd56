"""The acceptance on a GPU: what a part that fails, hangs or has no time leaves in the file."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.studies.gpu_acceptance.command import PARTS, SHARES, main
from benchmarks.studies.gpu_acceptance.record import (
    Acceptance,
    Deadline,
    Found,
    Goal,
    PartTimeoutError,
    SkippedError,
)
from benchmarks.studies.kd_pair import Pair
from benchmarks.studies.kd_step import make_step
from compress.detectors.small_pairs import small_pair
from export.errors import DivergedError
from tests.compress.detectors.small import small_batch


def measured(_: Deadline) -> Found:
    return {"step_ms": 2.0}, [
        Goal(name="near", value=1.05, limit=1.1),
        Goal(name="far", value=1.2, limit=1.1),
        Goal(name="unknown", value=None, limit=1.1),
    ]


def diverged(_: Deadline) -> Found:
    raise DivergedError("step 3: task/box is not finite")


def wrong(_: Deadline) -> Found:
    raise ZeroDivisionError("no steps")


def skipped(_: Deadline) -> Found:
    raise SkippedError("tensorrt is not installed")


def hanging(_: Deadline) -> Found:
    time.sleep(20)
    return {}, []


def written(acceptance: Acceptance) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(acceptance.out.read_text())
    return found


def test_the_file_is_complete_after_every_part_and_a_fault_ends_its_part_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    acceptance = Acceptance(tmp_path / "out.json", {"commit": "abc"}, gpu=False)
    acceptance.carry_out("steps", measured, 5)
    assert written(acceptance)["parts"].keys() == {"steps"}
    for name, work in {"loading": diverged, "precisions": wrong, "runtimes": skipped}.items():
        acceptance.carry_out(name, work, 5)
    found = written(acceptance)
    assert found["commit"] == "abc"
    assert {name: (part["state"], part["why"]) for name, part in found["parts"].items()} == {
        "steps": ("done", ""),
        "loading": ("failed", "step 3: task/box is not finite"),
        "precisions": ("failed", "ZeroDivisionError: no steps"),
        "runtimes": ("skipped", "tensorrt is not installed"),
    }
    assert found["parts"]["steps"]["found"] == {"step_ms": 2.0}
    assert [(goal["name"], goal["met"]) for goal in found["goals"]] == [
        ("near", True),
        ("far", False),
        ("unknown", False),
    ]
    assert "ZeroDivisionError" in capsys.readouterr().err  # its traceback is for the developer


def test_a_part_that_hangs_is_stopped_and_the_next_one_has_its_time(tmp_path: Path) -> None:
    acceptance = Acceptance(tmp_path / "out.json", {}, gpu=False)
    part = acceptance.carry_out("steps", hanging, 0.1)
    assert part.state == "failed"
    assert part.why.startswith("stopped after")
    assert acceptance.carry_out("loading", measured, 5).state == "done"
    assert issubclass(PartTimeoutError, Exception)


def test_the_parts_leave_time_for_photographs() -> None:
    assert set(SHARES) < set(PARTS)
    assert 0.5 < sum(SHARES.values()) < 0.9


def test_unknown_parts_and_devices_are_refused_in_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out.json")]
    with pytest.raises(SystemExit):
        main([*out, "--parts", "steps,step"])
    assert "unknown: step; known: steps, loading" in capsys.readouterr().err
    assert main([*out, "--device", "cuda:99"]) != 0
    assert "--device 'cuda:99'" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_a_timed_step_computes_in_the_precision_that_is_asked_for(
    half: torch.dtype | None,
) -> None:
    student, teacher = small_pair("retinanet")
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-6)
    seen: list[torch.dtype] = []
    student.neck.register_forward_hook(lambda *given: seen.append(given[2][0].dtype))
    make_step("plain", Pair(student, teacher, small_batch(), optimizer), half=half)()
    assert seen == [half or torch.float32]
