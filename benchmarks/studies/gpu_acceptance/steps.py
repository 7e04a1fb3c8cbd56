"""What a distilled step costs in bf16, its teacher running in every step or stored."""

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import JsonValue

from benchmarks.studies.gpu_acceptance.record import Deadline, Found, Goal
from benchmarks.studies.kd_methods import fitting
from benchmarks.studies.kd_pair import STUDENT, TEACHER, Pair, Setting, make_pair, with_store
from benchmarks.studies.kd_step import make_step
from compress.detector import Detector
from compress.losses.parts.loss import LossSection
from compress.training.paired_steps import milliseconds

FAMILIES = ("retinanet", "faster_rcnn")
METHODS = ("pkd", "bckd", "defeat", "fgd", "gid", "mgd")
OVER_FLOOR = 1.10  # of a distilled step over student and teacher forward
STORED = {False: 1.10, True: 1.20}  # over the plain step; True: of methods that compare maps
WARM_UP = 3  # rounds


def step_costs(
    deadline: Deadline,
    *,
    device: str,
    size: int,
    batch: int,
    rounds: int,
    families: Sequence[str],
    methods: Sequence[str],
    folder: Path,
) -> Found:
    """Time the steps of every method on a pair of each family, in turns."""
    found: dict[str, JsonValue] = {
        "pair": f"{TEACHER} -> {STUDENT}",
        "size": size,
        "batch": batch,
        "precision": "bf16",
        "memory_format": "channels_last",
        "clock": "CUDA events" if device.startswith("cuda") else "processor time",
    }
    goals: list[Goal] = []
    for number, family in enumerate(families):
        share = Deadline.after(deadline.left / (len(families) - number))
        pair = make_pair(Setting(family, size, batch, device))
        rows, skipped = _family(pair, methods, rounds, share, folder / family)
        found[family] = {"methods": rows, "skipped": {**skipped}}
        for name, row in rows.items():
            assert isinstance(row, dict)
            maps = bool(row["compares_maps"])
            goals.append(_goal(f"{family} {name} / floor", row["over_floor"], OVER_FLOOR))
            if row["stored_over_plain"] is not None:
                stored = row["stored_over_plain"]
                goals.append(_goal(f"{family} {name} stored / plain", stored, STORED[maps]))
        del pair
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    return found, goals


def _goal(name: str, value: JsonValue, limit: float) -> Goal:
    assert isinstance(value, float)
    return Goal(name=name, value=value, limit=limit)


def _family(
    pair: Pair, names: Sequence[str], rounds: int, deadline: Deadline, folder: Path
) -> tuple[dict[str, JsonValue], dict[str, str]]:
    chosen, skipped = fitting(names, pair.student, pair.teacher)
    rows: dict[str, JsonValue] = {}
    for number, (name, config) in enumerate(chosen.items()):
        if rows and not deadline.left:
            skipped[name] = "no time was left"
            continue
        share = Deadline.after(deadline.left / (len(chosen) - number))
        rows[name] = _method(pair, config, rounds, share, folder / str(number))
    return rows, skipped


def _method(
    pair: Pair, config: LossSection, rounds: int, deadline: Deadline, folder: Path
) -> dict[str, JsonValue]:
    """Time plain, floor, distilled and stored steps one after the other in every round."""
    half, device = torch.bfloat16, pair.batch.images.device
    steps: dict[str, Callable[[], None]] = {
        "plain": make_step("plain", pair, half=half),
        "floor": make_step("floor", pair, config, half=half),
        "distilled": make_step("distilled", pair, config, half=half),
    }
    stored = with_store(pair, config, folder)
    if stored is not None:
        steps["stored"] = make_step("distilled", stored, config, half=half)
    for _ in range(WARM_UP):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    while not times["plain"] or (len(times["plain"]) < rounds and deadline.left):
        for name, step in steps.items():
            times[name].append(milliseconds(device, step))
    asked = config.teacher_needs(pair.student.spec, pair.teacher.spec)
    return {
        **{f"{name}_ms": round(statistics.median(own), 3) for name, own in times.items()},
        "over_floor": _ratio(times["distilled"], times["floor"]),
        "over_plain": _ratio(times["distilled"], times["plain"]),
        "stored_over_plain": _ratio(times["stored"], times["plain"]) if stored else None,
        "rounds": len(times["plain"]),
        "compares_maps": bool(asked & {"features", "backbone"}),
        "finite": _finite(pair.student),
    }


def _ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Return the median over rounds of the ratio within a round."""
    return round(statistics.median(a / b for a, b in zip(times, others, strict=True)), 4)


def _finite(network: Detector) -> bool:
    return all(bool(value.isfinite().all()) for value in network.parameters())
