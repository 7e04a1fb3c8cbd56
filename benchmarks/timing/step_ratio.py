"""The cost of a distilled training step relative to a plain one."""

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

    def plain_steps(self, distilled: int) -> int:
        """Return the number of plain steps that cost as much as `distilled` distilled ones."""
        return max(1, round(distilled * self.ratio))

    def sentence(self) -> str:
        """Return the ratio with its interval, and how it was measured."""
        low, high = self.ci95
        rounds = sum(part.rounds for part in self.parts)
        steps = sum(part.steps for part in self.parts)
        plain, taught = (
            sum(part.steps * ms for part, ms in zip(self.parts, times, strict=True)) / steps
            for times in (
                [part.plain_ms for part in self.parts],
                [part.distilled_ms for part in self.parts],
            )
        )
        return (
            f"a distilled step costs {self.ratio:.3f} [{low:.3f}, {high:.3f}] times a plain one "
            f"({taught:.3g} ms to {plain:.3g} ms; {rounds} rounds in turns before the training, "
            f"{self.clock})"
        )
