"""What a tracker does, and the set of trackers that a run writes to."""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol

from pydantic import JsonValue
from typing_extensions import Self

from compress.console import Console
from export.errors import counted

Outcome = Literal["finished", "failed", "interrupted"]
GIVE_UP = 3  # failures in a row after which a tracker is not called during training any more


@dataclass(frozen=True)
class Experiment:
    """What a tracker receives when it opens.

    Attributes:
        name: the run's name.
        home: the run folder; a tracker keeps its run's id there, to resume it.
        settings: every setting of the recipe.
    """

    name: str
    home: Path
    settings: dict[str, JsonValue]


class Tracker(Protocol):
    """A logger of figures; any of its methods may raise, which `Trackers` makes a warning."""

    def begin(self, model: str, step: int) -> None:
        """Start or resume the training of `model` at `step`."""

    def log(self, model: str, figures: Mapping[str, float], step: int) -> None:
        """Record figures of `model` after `step` optimiser steps."""

    def end(self, model: str) -> None:
        """Close the training of `model`, finished or not."""

    def report(self, figures: Mapping[str, float], files: Sequence[Path]) -> None:
        """Record the figures of the finished report and keep copies of its files."""

    def close(self, outcome: Outcome) -> None:
        """Close the run; a later process may resume it."""


class Log(Protocol):
    """Records figures of one training."""

    def __call__(self, figures: Mapping[str, float], step: int) -> None:
        """Record figures after `step` optimiser steps."""


class Trackers:
    """The trackers of one run, opened when they are first needed.

    A tracker that fails never ends a run: its first failure is a warning, after `GIVE_UP` failures
    in a row it is called only for the report and to close, and closing says how many calls failed.
    """

    def __init__(
        self, console: Console | None = None, openers: Mapping[str, Callable[[], Tracker]] = {}
    ) -> None:
        """Take the openers by the trackers' names; without any, nothing is recorded."""
        self._console = console or Console(quiet=True)
        self._openers = dict(openers)
        self._open: dict[str, Tracker] = {}
        self._in_a_row, self._failed = Counter[str](), Counter[str]()

    @contextmanager
    def training(self, model: str, step: int) -> Iterator[Log]:
        """Open the training of `model` from `step` on, and yield what records its figures."""

        def log(figures: Mapping[str, float], step: int) -> None:
            self._each(lambda tracker: tracker.log(model, figures, step), self._openers)

        self._each(lambda tracker: tracker.begin(model, step), self._openers)
        try:
            yield log
        finally:
            self._each(lambda tracker: tracker.end(model), self._openers)

    def report(
        self, figures: Mapping[str, float], files: Sequence[Path], without: Collection[str] = ()
    ) -> set[str]:
        """Send the finished report to all but the trackers named in `without`.

        Returns:
            The names of those that took it.
        """
        names = [name for name in self._openers if name not in without]
        return self._each(lambda tracker: tracker.report(figures, files), names, last=True)

    def __enter__(self) -> Self:
        """Return the trackers; none is opened yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close every tracker that is open."""
        outcome: Outcome = "finished"
        if kind is not None:
            outcome = "interrupted" if issubclass(kind, KeyboardInterrupt) else "failed"
        self._each(lambda tracker: tracker.close(outcome), [*self._open], last=True)
        for name, count in self._failed.items():
            self._console.warn(
                f"track: {counted(count, 'call')} of {name} failed; results.csv in training/ and "
                "the report "
                "hold all figures"
            )
        self._open.clear()

    def _each(
        self, action: Callable[[Tracker], None], names: Iterable[str], *, last: bool = False
    ) -> set[str]:
        done = set[str]()
        for name in names:
            if self._in_a_row[name] >= GIVE_UP and not last:
                self._failed[name] += 1
                continue
            try:
                with warnings.catch_warnings():  # a user cannot act on those of a logger
                    warnings.simplefilter("ignore")
                    if name not in self._open:
                        self._open[name] = self._openers[name]()
                    action(self._open[name])
            except Exception as error:  # each client has its own kinds
                self._count(name, error)
            else:
                self._in_a_row[name] = 0
                done.add(name)
        return done

    def _count(self, name: str, error: Exception) -> None:
        self._in_a_row[name] += 1
        self._failed[name] += 1
        said = (str(error).strip().splitlines() or ["no details"])[0]
        if self._failed[name] == 1:
            self._console.warn(
                f"track: {name} failed ({type(error).__name__}: {said}); the run goes on"
            )
        if self._in_a_row[name] == GIVE_UP:
            self._console.warn(
                f"track: {name} failed {GIVE_UP} times in a row; it is tried again at the end"
            )
