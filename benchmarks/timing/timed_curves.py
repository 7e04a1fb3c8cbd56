"""AP of a run's trainings against the time that they took."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.record import Record

Rows = Sequence[Mapping[str, float | None]]  # of a training: one per evaluation


class TimedCurve(Record):
    """AP of one model during its training.

    Attributes:
        model: baseline, baseline_equal_time or student.
        points: seconds that were spent on it and AP, 0..1, at every evaluation; its stages follow
            one another.
    """

    model: str
    seed: int
    points: tuple[tuple[float, float], ...]


class TimedCurves(Record):
    """AP of the plain and the distilled trainings of a run by the same clock.

    Attributes:
        clock: what was counted, in words.
        taught_s: seconds that storing a teacher's outputs took, once; part of the students' time.
        curves: one per model and seed.
    """

    clock: str
    taught_s: float
    curves: tuple[TimedCurve, ...]


def timed_curves(
    trainings: Mapping[tuple[str, int], Sequence[Rows]],
    devices: Iterable[str],
    *,
    workers: int,
    taught_s: float,
) -> TimedCurves | None:
    """Return AP against time; None where the trainings cannot be compared by one clock.

    The clock is that of the equal-time comparison: the processor time of the training process on a
    CPU, so that other programs affect it little, and the time of the steps on a GPU.

    Args:
        trainings: (model, seed) -> the records of its stages, in their order.
        devices: types of all devices that steps were taken on.
        workers: processes that load pictures.
        taught_s: seconds by this clock that storing a teacher's outputs took.
    """
    kinds = set(devices)
    if len(kinds) != 1:
        return None
    on_cpu = kinds == {"cpu"}
    column = "processor_seconds" if on_cpu else "seconds"
    curves = []
    for (model, seed), stages in trainings.items():
        start = taught_s if model == "student" else 0.0
        points = _points(stages, column, start)
        if points is None:
            return None
        if points:
            curves.append(TimedCurve(model=model, seed=seed, points=points))
    clock = "time"
    if on_cpu:
        loading = f"without the {workers} that load pictures" if workers else "loading included"
        clock = f"processor time of the training process, {loading}"
    return TimedCurves(clock=clock, taught_s=taught_s, curves=tuple(curves)) if curves else None


def _points(
    stages: Sequence[Rows], column: str, start: float
) -> tuple[tuple[float, float], ...] | None:
    """Return (seconds, AP) of all stages; None where the seconds were not recorded."""
    points = []
    for rows in stages:
        end = start
        for row in rows:
            seconds = row.get(column)
            if seconds is None:
                return None
            end = start + seconds
            ap = row.get("AP")
            if ap is not None:
                points.append((end, ap))
        start = end
    return tuple(points)
