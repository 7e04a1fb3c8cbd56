"""Kills, damaged files, wrong clocks and other threads between two starts of one run.

A run of a tiny recipe is made once without disturbance. Every case begins with a copy of it that
lacks the results of one stage and of those after it, so that each stage has its share, or with an
empty folder. Then something goes wrong, once or several times, and the run is started until it
ends. What is promised: weights bit for bit and figures equal to those of the undisturbed run; one
message and a documented exit code; no process left behind; nothing partial that counts as finished.
"""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from compress.stages.teaching.costs import STORES
from tests.drill.judge import CODES
from tests.drill.run_damage import DAMAGES, advised, damage, kinds_of_files
from tests.drill.run_recipe import write_recipe
from tests.drill.run_results import STAGES, Results, Stages, differences, results_of
from tests.drill.starts import Command, Ended

Kind = Literal["kill", "clock", "damage", "threads"]
KINDS: tuple[Kind, ...] = ("kill", "damage", "kill", "kill", "damage", "kill", "clock", "damage")
SIGNALS = (signal.SIGKILL,) * 3 + (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SAID = "interrupted; run the same command again to go on from here"
BAD_WORDS = ("Traceback", "Exception ignored", "this is a bug", "Fatal Python error")
MOST_STARTS = 5  # after which a damaged run must have ended
YEAR_S = 365 * 86400.0
WHOLE = "empty folder"  # a case that begins without a run folder
INEXACT = "no longer bit for bit"


@dataclass(frozen=True)
class Case:
    """One disturbed run.

    Attributes:
        number: its place in the drill.
        kind: what goes wrong.
        stage: first stage whose results are missing at the beginning, `end` or `empty folder`.
        seed: of everything that is drawn in it.
    """

    number: int
    kind: Kind
    stage: str
    seed: str

    @property
    def name(self) -> str:
        """Return what it is called in messages."""
        return f"case {self.number}: {self.kind} from {self.stage}"


@dataclass
class Counts:
    """What came of the cases, and each promise that was not kept."""

    cases: Counter[str] = field(default_factory=Counter)
    kills: Counter[tuple[str, str]] = field(default_factory=Counter)  # stage, signal
    outcomes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    slowest_end_s: float = 0.0

    def line(self) -> str:
        """Return the counts as a table of kills by stage and a sentence."""
        names = sorted({name for _, name in self.kills})
        stages = [s for s in ("opening", *STAGES, "end") if any(k == s for k, _ in self.kills)]
        rows = [f"{'kills in':20}" + "".join(f"{name:>9}" for name in [*names, "all"])]
        for stage in stages:
            each = [self.kills[stage, name] for name in names]
            rows.append(f"{stage:20}" + "".join(f"{n:9}" for n in [*each, sum(each)]))
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(self.cases.items()))
        ends = "; ".join(f"{name}: {n}" for name, n in sorted(self.outcomes.items()))
        return "\n".join(
            [
                *rows,
                ends,
                f"kills: {self.kills.total()} kills; cases: {kinds}; child processes ended within "
                f"{self.slowest_end_s:.1f} s; {len(self.broken)} promises broken",
            ]
        )


@dataclass(frozen=True)
class Drill:
    """The undisturbed run, and what the cases are compared with."""

    folder: Path
    stages: Stages
    expected: Results
    opening_s: float
    counts: Counts

    @classmethod
    def prepare(
        cls, folder: Path, seed: int, *, small: bool = False, taught: bool = False
    ) -> "Drill":
        """Make the undisturbed run of the recipe that `write_recipe` writes."""
        recipe = write_recipe(folder, seed, small=small, taught=taught)
        command = Command(recipe, folder / "whole" / "runs", known=folder / "modules.json")
        first = command.finish(patience_s=1200.0)  # of a whole run on a busy machine
        assert first.code == 0, first.said
        command.warm()
        start = time.monotonic()
        again = command.finish()
        opening_s = time.monotonic() - start
        assert again.code == 0, again.said
        return cls(folder, Stages.of(command.home), results_of(command.home), opening_s, Counts())

    def run(self, case: Case) -> None:
        """Disturb one run, start it to its end, and note what was not as promised."""
        chance = random.Random(case.seed)
        folder = self.folder / "case"
        shutil.rmtree(folder, ignore_errors=True)
        known = self.folder / "modules.json"
        command = Command(self.folder / "recipe.yaml", folder / "runs", known=known)
        if case.stage != WHOLE:
            command.runs.mkdir(parents=True)
            cache = self.stages.home.parent / "pictures.json"
            shutil.copyfile(cache, command.runs / "pictures.json")
            self.stages.copy_before(case.stage, command.home)
        disturb = {
            "kill": self._kill,
            "clock": self._clock,
            "damage": self._damage,
            "threads": self._threads,
        }
        self.counts.cases[case.kind] += 1
        self.counts.broken += [
            f"{case.name}: {text}" for text in disturb[case.kind](case, command, chance)
        ]

    # -- kills ---------------------------------------------------------------------------------

    def _kill(self, case: Case, command: Command, chance: random.Random) -> Iterator[str]:
        stage = case.stage
        for _ in range(chance.choice((5, 6, 7, 8))):
            ended = yield from self._killed_once(replace(case, stage=stage), command, chance)
            if ended.code == 0:  # it ended before the signal: begin anew
                yield from differences(command.home, self.stages.home, self.expected)
                shutil.rmtree(command.home)
                shutil.rmtree(command.runs / STORES, ignore_errors=True)
                if case.stage != WHOLE:
                    self.stages.copy_before(case.stage, command.home)
            stage = self.stages.present(command.home) if command.home.exists() else WHOLE
        yield from self._to_the_end(command)

    def _killed_once(
        self, case: Case, command: Command, chance: random.Random
    ) -> Generator[str, None, Ended]:
        """Start the run and kill it in the stage in which it is, or in one soon after."""
        number = chance.choice(SIGNALS)
        seconds = self.stages.seconds
        names = list(self.stages.paths)
        first = 0 if case.stage == WHOLE else names.index(case.stage) if case.stage in names else -1
        if case.stage == WHOLE or case.stage == "latency" or first < 0:
            aim = case.stage
        else:
            aim = chance.choice(names[first : first + 3])
        # the undisturbed run also imported what is warm now
        delay = 0.5 * chance.uniform(0, seconds.get(aim, sum(seconds.values())))
        if aim in {case.stage, "end", WHOLE}:
            delay += chance.uniform(0, self.opening_s)
        waiting = replace(command, cold=chance.random() < 0.06)
        if waiting.cold:
            delay = chance.uniform(0, 12.0)
        process = waiting.start()
        reached: list[float] = [time.monotonic()] if aim in {case.stage, "end", WHOLE} else []

        def now() -> bool:
            if not reached and self._reached(command.home, aim):
                reached.append(time.monotonic())
            return bool(reached) and time.monotonic() - reached[0] >= delay

        group = number == signal.SIGINT and chance.random() < 0.7  # a terminal tells all processes
        twice = number in {signal.SIGINT, signal.SIGTERM} and chance.random() < 0.25
        killed = process.kill_when(now, number, group=group, twice=twice)
        where = self._where(process.said(), command.home)
        before = process.said()
        ended = process.wait(killed=killed)
        if killed and number == signal.SIGKILL:  # workers may speak before they notice
            ended = replace(ended, said=before)
        if killed:
            self.counts.kills[where, number.name] += 1
        what = f"{'2 x ' if twice else ''}{number.name}{' cold' if waiting.cold else ''} in {where}"
        for problem in self._judge_kill(ended, number, twice=twice, cold=waiting.cold):
            yield f"{what}: {problem}"
        return ended

    def _reached(self, home: Path, stage: str) -> bool:
        names = [*self.stages.paths, "end"]
        return home.exists() and names.index(self.stages.present(home)) >= names.index(stage)

    def _where(self, said: str, home: Path) -> str:
        """Return the stage in which a run is, by its messages and its folder."""
        begun = ": already trained, kept" in said or " steps of " in said
        return self.stages.present(home) if begun else "opening"

    def _judge_kill(
        self, ended: Ended, number: signal.Signals, *, twice: bool, cold: bool
    ) -> Iterator[str]:
        self.counts.outcomes[f"{number.name} {'gave' if ended.killed else 'missed'}"] += 1
        yield from self._judge_end(ended)
        allowed = {130}
        if not ended.killed:
            allowed = {0}
        elif number == signal.SIGKILL:
            allowed = {-signal.SIGKILL}
        elif twice:
            allowed = {130, -number}
        if cold and "data: " not in ended.said:  # Python itself is still starting
            allowed |= {-number}
        if ended.done:  # it was finished when the signal came, or Python itself was ending
            allowed |= {0, -number}
        if ended.code not in allowed:
            yield f"exit code {ended.code}, not one of {sorted(allowed)}: {ended.said[-300:]!r}"
        if ended.code == 130 and ended.said.count("interrupted") != 1:
            yield f"not one message: {ended.said[-300:]!r}"
        if ended.code == 130 and SAID not in ended.said and not cold:
            yield f"does not say what to do: {ended.said[-300:]!r}"

    def _judge_end(self, ended: Ended) -> Iterator[str]:
        for words in BAD_WORDS:
            if words in ended.said:
                place = ended.said.index(words)
                yield f"{words}: {ended.said[max(0, place - 100) :][-700:]!r}"
        if ended.code is None:
            yield f"hangs: {ended.said[-300:]!r}"
        if ended.stray_s is None:
            yield "a process was left behind"
        else:
            self.counts.slowest_end_s = max(self.counts.slowest_end_s, ended.stray_s)

    def _to_the_end(self, command: Command) -> Iterator[str]:
        """Start the run once more; it must end as the undisturbed one."""
        ended = command.finish()
        yield from self._judge_end(ended)
        if ended.code != 0:
            yield f"exit code {ended.code} when started again: {ended.said[-500:]!r}"
            return
        yield from differences(command.home, self.stages.home, self.expected)

    # -- clocks --------------------------------------------------------------------------------

    def _clock(self, case: Case, command: Command, chance: random.Random) -> Iterator[str]:
        """Kill a run under one clock, and go on under another, with files of a third time."""
        first, second, files = (chance.choice((-1, 0, 1)) * YEAR_S for _ in range(3))
        before = replace(command, shift_s=first)
        yield from self._killed_once(case, before, chance)
        for path in command.runs.rglob("*"):
            known = path.stat().st_mtime + files
            os.utime(path, (known, known))
        yield from self._to_the_end(replace(command, shift_s=second))
        report = json.loads((command.home / "report" / "report.json").read_text(encoding="utf-8"))
        yield from (f"a negative time: {place}" for place in _negative_times(report))

    # -- threads -------------------------------------------------------------------------------

    def _threads(self, case: Case, command: Command, _: random.Random) -> Iterator[str]:
        """Kill a training between two steps, and go on with another number of threads."""
        trained = {"teacher", "student"} & set(self.stages.paths)
        stage = case.stage if case.stage in trained else "student"
        name = {"teacher": "teacher", "student": "seed0-student"}[stage]
        shutil.rmtree(command.home, ignore_errors=True)
        self.stages.copy_before(stage, command.home)
        process = command.start()
        state = command.home / "training" / name / "last.pt"
        killed = process.kill_when(state.exists, signal.SIGKILL, group=False, twice=False)
        process.wait(killed=killed)
        if (command.home / "models" / name).exists():
            return  # too late: the training had ended
        self.counts.kills[stage, "SIGKILL"] += 1
        ended = replace(command, threads=2).finish()
        yield from self._judge_end(ended)
        if ended.code != 0:
            yield f"exit code {ended.code}: {ended.said[-300:]!r}"
            return
        report = json.loads((command.home / "report" / "report.json").read_text(encoding="utf-8"))
        told = [line for line in report["warnings"] if line.startswith(name) and INEXACT in line]
        if len(told) != 1 or "with 2 threads" not in told[0]:
            yield f"the report does not say that threads changed: {report['warnings']}"
        if INEXACT not in ended.said:
            yield f"the log does not say that threads changed: {ended.said[-300:]!r}"

    # -- damage --------------------------------------------------------------------------------

    def _damage(self, case: Case, command: Command, chance: random.Random) -> Iterator[str]:
        """Damage one file; do what the messages say until the run ends, as the undisturbed one."""
        if case.stage in {"teacher", "student", "baseline"}:  # a checkpoint to resume from
            name = Path(self.stages.paths[case.stage][0]).name
            whole = self.stages.home / "training" / name
            shutil.copytree(whole, command.home / "training" / name, dirs_exist_ok=True)
        kinds = kinds_of_files(command.home)
        kind = chance.choice(sorted(kinds))
        path, how = chance.choice(kinds[kind]), chance.choice(DAMAGES)
        what = f"{how} of {path.relative_to(command.runs)}"
        sealed = chance.random() < 0.85
        if not sealed:  # as a run of an earlier version
            what = f"{what}, unsealed"
            for place in command.home.rglob(".*.sha256"):
                place.unlink()
            if not path.exists():
                return
        damage(path, how, chance)
        messages = 0
        for _ in range(MOST_STARTS):
            ended = command.finish()
            yield from (f"{what}: {problem}" for problem in self._judge_end(ended))
            if ended.code == 0:
                break
            messages += 1
            yield from (f"{what}: {text}" for text in self._judge_refusal(ended, path))
            if not sealed:
                break
            if advised(ended.said, command.runs) is None:
                yield f"{what}: cannot be done as told: {ended.said[-400:]!r}"
                return
        else:
            yield f"{what}: refused {MOST_STARTS} times: {ended.said[-300:]!r}"
            return
        if not sealed:
            self.counts.outcomes["damage without seals"] += 1
            return
        self.counts.outcomes["damage told" if messages else "damage made good or harmless"] += 1
        found = differences(command.home, self.stages.home, self.expected)
        yield from (f"{what}: {text}" for text in found)

    def _judge_refusal(self, ended: Ended, path: Path) -> Iterator[str]:
        errors = [line for line in ended.said.splitlines() if line.startswith("error: ")]
        if ended.code not in CODES:
            yield f"exit code {ended.code}"
        if len(errors) != 1:
            yield f"{len(errors)} messages: {ended.said[-400:]!r}"
        elif path.name not in errors[0] and path.parent.name not in errors[0]:
            yield f"does not name the file: {errors[0][:300]}"


def _negative_times(tree: object, place: str = "") -> Iterator[str]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _negative_times(value, f"{place}.{key}")
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            yield from _negative_times(value, f"{place}[{number}]")
    elif isinstance(tree, int | float) and place.endswith(("seconds", "_ms", "_s")) and tree < 0:
        yield f"{place} {tree}"


def cases(seed: int, count: int, names: Sequence[str]) -> Iterator[Case]:
    """Yield `count` cases; every kind and every stage of `names` has its turn."""
    chance = random.Random(seed)
    stages: dict[Kind, list[str]] = {}
    for number in range(count):
        kind: Kind = "threads" if number % 16 == 11 else KINDS[number % len(KINDS)]
        left = stages.setdefault(kind, [])
        if not left:
            left += [*names, "end", *([WHOLE] if kind == "kill" and "teacher" in names else [])]
            chance.shuffle(left)
        yield Case(number, kind, left.pop(), f"{seed} {number}")


def drill(folder: Path, seed: int, count: int, *, small: bool = False) -> Counts:
    """Disturb `count` runs; return the counts.

    The teacher of every second one stores its outputs before the student trains; small ones have
    no teacher.
    """
    counts = Counts()
    for taught in (False,) if small else (False, True):
        home = folder / ("taught" if taught else "plain")
        home.mkdir()
        whole = Drill.prepare(home, seed, small=small, taught=taught)
        whole = replace(whole, counts=counts)
        share = count if small else count // 2 if taught else count - count // 2
        for case in cases(seed + taught, share, list(whole.stages.paths)):
            whole.run(case)
    return counts
