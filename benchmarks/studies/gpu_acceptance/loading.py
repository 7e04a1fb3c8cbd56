"""How long the steps of a training wait for their pictures."""

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import torch
from pydantic import JsonValue

from benchmarks.studies.gpu_acceptance.recipes import AUGMENT, drawn, opened, workers, write_jpegs
from benchmarks.studies.gpu_acceptance.record import Deadline, Found, Goal
from compress.batch import Batch
from compress.distillation.distiller import Distiller
from compress.stages.fit import batches_of
from compress.stages.opened import Run
from compress.training.job import TrainJob
from compress.training.loop import Loop, closable

MOST_WAIT = 0.05  # share of the time that may pass before a step has its pictures
WARM_UP = 8  # steps


def loading(
    deadline: Deadline,
    *,
    device: str,
    size: int,
    batch: int,
    steps: int,
    backbone: str,
    data: Path | None,
    folder: Path,
) -> Found:
    """Take steps of a plain training in bf16, its JPEG files decoded in full in every one."""
    root = write_jpegs(folder / "jpegs", 4 * batch) if data is None else data
    settings = drawn("loading", "retinanet", "bf16", size=size, steps=WARM_UP + steps, batch=batch)
    settings["data"] = {
        "type": "folder",
        "root": str(root),
        "image_size": size,
        "cache_gib": 0,
        "augment": AUGMENT,
    }
    settings["student"] = {"type": "retinanet", "backbone": backbone}
    settings["train"]["workers"] = workers()
    for key in ("teacher", "distill", "baseline"):
        del settings[key]
    run = opened(settings, folder, device)
    found, share = _waits(run, steps, deadline)
    found |= {
        "size": size,
        "batch": batch,
        "workers": workers(),
        "detector": f"retinanet {backbone}",
    }
    found["pictures"] = "drawn JPEG files of 640 x 480" if data is None else "those of --data"
    return found, [Goal(name="share of time that waits for pictures", value=share, limit=MOST_WAIT)]


class _Timed:
    """Batches, the seconds waited for them, and marks in the GPU's stream where they came."""

    def __init__(self, batches: Iterator[Batch], device: torch.device) -> None:
        self.batches, self.device = batches, device
        self.waited = 0.0
        self.marks: list[torch.cuda.Event] = []

    def __iter__(self) -> "_Timed":
        return self

    def __next__(self) -> Batch:
        start = time.perf_counter()
        batch = next(self.batches)
        self.waited += time.perf_counter() - start
        self.marks += _mark(self.device)
        return batch


def _mark(device: torch.device) -> list[torch.cuda.Event]:
    """Return an event in the stream of a GPU; nothing on other devices."""
    if device.type != "cuda":
        return []
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return [event]


def _waits(run: Run, steps: int, deadline: Deadline) -> tuple[dict[str, JsonValue], float]:
    """Take steps of the run's own loop; return their times, and the share of waiting."""
    session, config, seed = run.session, run.recipe.train, run.recipe.seed
    device, total = session.torch_device(), WARM_UP + steps
    objective = Distiller(run.build_student(seed))
    job = TrainJob(
        name="loading",
        objective=objective,
        batches=batches_of(session, run.data, config, seed, total, objective),
        config=config,
        total=total,
        live=session.home / "training",
        evaluate=lambda _: {},
        fabric=session.fabric("bf16-mixed"),
        seed=seed,
        console=session.console,
    )
    loop = Loop(job)
    ends: list[torch.cuda.Event] = []
    with closing(closable(job.batches(0, total))) as stream:
        feed = _Timed(stream, device)
        for _ in range(WARM_UP):
            loop.take_step(feed)
        _finish(device)
        feed.waited, feed.marks, taken = 0.0, [], 0
        began = time.perf_counter()
        while taken < steps and (taken < 2 or deadline.left):
            loop.take_step(feed)
            ends += _mark(device)
            taken += 1
        _finish(device)
        seconds = time.perf_counter() - began
    spans = [start.elapsed_time(end) for start, end in zip(feed.marks, ends, strict=True)]
    return {
        "steps": taken,
        "step_ms": round(1000 * seconds / taken, 3),
        "wait_ms": round(1000 * feed.waited / taken, 3),
        "wait_share": round(feed.waited / seconds, 4),
        # from the batch to the end of the optimiser in the GPU's stream, gaps between kernels too
        "busy_share": round(sum(spans) / 1000 / seconds, 4) if spans else None,
        "pictures_per_second": round(taken * config.batch / seconds, 1),
    }, round(feed.waited / seconds, 4)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
