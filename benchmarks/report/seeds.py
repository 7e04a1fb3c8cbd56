"""AP of a model over the seeds of a run."""

import statistics
from dataclasses import dataclass

from benchmarks.report.schema import ReportData, ReportRow

EXPORTED = ("onnxruntime", "fp32")  # the only artifact that exists for every seed


@dataclass(frozen=True)
class OverSeeds:
    """AP of every seed, 0..1."""

    aps: tuple[float, ...]

    @property
    def count(self) -> int:
        """Number of seeds."""
        return len(self.aps)

    @property
    def mean(self) -> float:
        """Mean AP."""
        return statistics.fmean(self.aps)

    @property
    def deviation(self) -> float:
        """Standard deviation of the sample."""
        return statistics.stdev(self.aps)


def several(data: ReportData) -> bool:
    """Whether the run trained with more than one seed."""
    seeds = {run.seed for run in data.training.values()}
    return len(seeds) > 1 or any(len(row.seed_aps) > 1 for row in data.rows)


def over_seeds(row: ReportRow, data: ReportData) -> OverSeeds | None:
    """Return AP of a row's model over the seeds; None for one seed and for other artifacts.

    Reports from before `seed_aps` give the AP of the trained weights; the exported FP32 file has
    the same AP to the digits shown.
    """
    if len(row.seed_aps) > 1:
        return OverSeeds(row.seed_aps)
    if (row.backend, row.precision) != EXPORTED or any(one.seed_aps for one in data.rows):
        return None
    runs = [run for run in data.training.values() if run.model == row.model]
    aps = [ap for run in runs if run.curve and (ap := run.curve[-1].get("AP")) is not None]
    several_seeds = len({run.seed for run in runs}) == len(runs) > 1
    return OverSeeds(tuple(aps)) if several_seeds and len(aps) == len(runs) else None
