"""The cost of a distilled training step relative to a plain one."""

from collections.abc import Sequence

from benchmarks.record import Record


class PartRatio(Record):
    """The ratio in one part of the schedule, whose steps cost the same.

    Attributes:
        name: name of the student's training.
        steps: its planned steps that belong to this part.
        ratio: median over rounds of the time of a distilled step / that of a plain one.
        ci95: 95 % bootstrap interval over the rounds.
        rounds: number of rounds, each a plain and a distilled step.
        plain_ms: median time of a plain step by `StepRatio.clock`.
        distilled_ms: median time of a distilled step.
    """

    name: str
    steps: int
    ratio: float
    ci95: tuple[float, float]
    rounds: int
    plain_ms: float
    distilled_ms: float


class TeachingCost(Record):
    """What passing the pictures through a teacher cost, once, before the students' training.

    Attributes:
        views: number of views of all pictures, each of which passed the teacher once.
        bytes: size of the stored outputs.
        ms: processor time on a CPU, else time.
        passes: pictures that one training of the student takes; a teacher that runs in every step
            would have passed as many.
        clamped: stored values that were beyond the range of float16.
    """

    views: int
    bytes: int
    ms: float
    passes: int
    clamped: int = 0

    def sentence(self) -> str:
        """Return cost and size in words, and after how many trainings the cost is paid."""
        share = self.views / self.passes
        paid = "one training" if share <= 1 else f"{share:.1f} trainings"
        return (
            f"{self.views} views passed the teacher once, which cost {self.ms / 1000:.3g} s and "
            f"stored {self.bytes / 2**20:.3g} MiB ({self.bytes / self.views / 2**10:.3g} KiB a "
            f"view); a teacher in every step would pass {self.passes} per training, so the cost "
            f"is paid after {paid}"
        )


class StepRatio(Record):
    """The ratio over a whole training: the mean of its parts, weighted by their steps.

    Attributes:
        ratio: time of a distilled step / time of a plain step.
        ci95: 95 % bootstrap interval over the rounds.
        clock: what was timed, in words.
        device: type of the device.
        threads: number of CPU threads.
        parts: one entry per teacher and part of the schedule.
    """

    ratio: float
    ci95: tuple[float, float]
    clock: str
    device: str
    threads: int
    parts: tuple[PartRatio, ...]

    @property
    def plain_ms(self) -> float:
        """Mean time of a plain step."""
        return self._mean([part.plain_ms for part in self.parts])

    def plain_steps(self, distilled: int, once_ms: float = 0.0) -> int:
        """Return the number of plain steps that cost as much as `distilled` distilled ones.

        `once_ms` is what distillation cost besides its steps, such as `TeachingCost.ms`.
        """
        once = once_ms / self.plain_ms if once_ms else 0.0
        return max(1, round(distilled * self.ratio + once))

    def sentence(self) -> str:
        """Return the ratio with its interval, and how it was measured."""
        low, high = self.ci95
        rounds = sum(part.rounds for part in self.parts)
        taught = self._mean([part.distilled_ms for part in self.parts])
        return (
            f"a distilled step costs {self.ratio:.3f} [{low:.3f}, {high:.3f}] times a plain one "
            f"({taught:.3g} ms to {self.plain_ms:.3g} ms; {rounds} rounds in turns before the "
            f"training, {self.clock})"
        )

    def _mean(self, times: Sequence[float]) -> float:
        steps = sum(part.steps for part in self.parts)
        return sum(part.steps * ms for part, ms in zip(self.parts, times, strict=True)) / steps
