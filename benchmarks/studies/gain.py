"""AP gain of each method on one data set: `python -m benchmarks.studies.gain RECIPE...`.

Runs `python -m compress.run` in separate processes. Per base recipe and regime: the teacher and the
plain student of every seed once, then one run per method with the same initial weights, data order,
number of steps and teacher. `--equal-time` also trains a plain student for as many steps as cost
the same; the ratio is timed with interleaved steps (see docs/report.md). Finished runs are kept, so
the same command resumes after an interruption. Writes `gain_<data>.json`
after every method, and draws `gain_<data>.png`.

Regimes: `all` labels, and `few`: a fifth of the labels and the other pictures without labels, with
the teacher that was trained on all.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import JsonValue

from benchmarks.studies.gain_plot import draw_gains
from benchmarks.studies.gain_table import (
    EqualTime,
    Gains,
    MethodGain,
    Settings,
    StepCost,
    Table,
    compare,
    locked,
    split_sizes,
    students_of,
    teacher_of,
)
from benchmarks.timing.environment import environment
from benchmarks.timing.step_ratio import StepRatio
from compress.stages.rundir import read_step_ratio, teaching_ms
from export.arguments import INTERRUPTED, keep_exit_code
from export.atomic import write_json
from export.errors import RecipeError, ToolkitError

HERE = Path(__file__).resolve().parents[1]
METHODS = HERE / "gain" / "methods.yaml"
REGIMES = ("all", "few")
FOUND_ONCE = {"pseudo_labels"}  # learns from boxes, which are found once with or without `teach`
SHARE = 0.2  # share of the labels in `few`
PLAIN = ("distill=[]", "baseline={enabled: false}", "teach=null")
# Latency is not compared here; AP is that of the exported fp32 files.
LIGHT = (
    "export.precisions=[fp32]",
    "benchmark={blocks: 2, calls_per_block: 2, warmup: 1, images: 2, throughput_batches: []}",
)
RUN = "import compress.run; sys.exit(compress.run.main())"
TIME_STEPS = (
    "from pathlib import Path; from compress.pipeline import record_step_ratio; "
    "record_step_ratio(Path(sys.argv[1]))"
)

Entry = dict[str, JsonValue]  # one entry of `distill`
Methods = dict[str, list[Entry]]


@dataclass(frozen=True)
class Work:
    """One base recipe and the settings that all of its runs share."""

    recipe: Path
    runs: Path
    overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the recipe's file without its suffix."""
        return self.recipe.stem

    def run(self, name: str, *overrides: str) -> Path:
        """Start or resume one run; return its folder.

        Raises:
            RunError: with the message and exit code of the run.
        """
        full = f"{self.name}-{name}"
        sys.stderr.write(f"--- {full}\n")
        command = [sys.executable, "-c", _same_path_as_here(RUN), str(self.recipe), "--json"]
        command += ["--runs", str(self.runs)]
        command += in_force([f"name={full}", *LIGHT, *self.overrides, *overrides])
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            said = done.stdout.strip().splitlines() or ["{}"]
            try:
                text = json.loads(said[-1]).get("error", "")
            except ValueError:
                text = said[-1]
            raise RunError(done.returncode, text)
        return self.runs / full


def in_force(settings: Sequence[str]) -> list[str]:
    """Return the last setting `key=value` of every key, in the order given."""
    last = {setting.partition("=")[0]: place for place, setting in enumerate(settings)}
    return [settings[place] for place in sorted(last.values())]


def measured_step_ratio(home: Path) -> StepRatio:
    """Return the cost of a distilled step of a finished run; measure it if it is not recorded.

    Raises:
        RunError: it could not be measured.
    """
    if read_step_ratio(home) is None:
        command = [sys.executable, "-c", _same_path_as_here(TIME_STEPS), str(home)]
        code = subprocess.run(command).returncode
        if code:
            raise RunError(code, f"{home}: the cost of a distilled step could not be measured")
    found = read_step_ratio(home)
    assert found is not None
    return found


def _same_path_as_here(code: str) -> str:
    """Return code that runs with the module path of this process.

    With `-m` Python searches the current folder first, which may contain a `compress.py`.
    """
    return f"import sys; sys.path[:] = {sys.path}; {code}"


class RunError(Exception):
    """A run ended with an exit code other than 0."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text or f"exit code {code}")
        self.code = code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything that is not finished; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        methods = read_methods(options.methods)
        failed = [
            table for recipe in options.recipes for table in _recipe(recipe, methods, options)
        ]
    except ToolkitError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except RunError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.code
    except KeyboardInterrupt:
        keep_exit_code()
        return INTERRUPTED
    return 1 if any(failed) else 0


def read_methods(given: Sequence[str]) -> Methods:
    """Return name -> entries of `distill`, from YAML files, `name=[...]`, and names of our file.

    Raises:
        RecipeError: one of them is none of these.
    """
    ours = _read(METHODS)
    found: Methods = {}
    for text in given:
        name, equals, entries = text.partition("=")
        if equals:
            found[name] = _checked(yaml.safe_load(entries), text)
        elif Path(text).is_file():
            found |= _read(Path(text))
        elif text in ours:
            found[text] = ours[text]
        else:
            raise RecipeError(
                f"--methods {text}: no file, and no name in {METHODS} ({', '.join(ours)}); or give "
                f"{text}='[{{type: ...}}]'"
            )
    return found or ours


def _read(path: Path) -> Methods:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict):
        raise RecipeError(f"{path}: expected names, each with its entries of `distill`")
    return {str(name): _checked(entries, f"{path}: {name}") for name, entries in document.items()}


def _checked(entries: object, where: str) -> list[Entry]:
    if not isinstance(entries, list) or not all(isinstance(one, dict) for one in entries):
        raise RecipeError(f"{where}: expected a list of entries, as in [{{type: pkd}}]")
    return entries


def _recipe(recipe: Path, methods: Methods, options: argparse.Namespace) -> list[bool]:
    """Fill every table of one base recipe; return whether a method failed, by table."""
    seeds = () if options.seeds is None else (f"seeds={options.seeds}",)
    work = Work(recipe, options.runs, (*options.set, *seeds))
    labeled = ("train.labeled_batch=null", "train.unlabeled_batch=null")  # all have labels
    all_labels = work.run("all-plain", *PLAIN, *labeled)  # trains the teacher of every regime
    teacher = all_labels / "models" / "teacher" / "model.safetensors"
    loaded = (
        f"teacher.detector.weights={teacher}",
        "teacher.detector.transfer=null",
        "teacher.train=null",
        "teacher.data=null",
    )
    data = options.data or _data_name(locked(all_labels))
    failures = []
    for regime in options.regimes:
        settings: tuple[str, ...] = (*loaded, *labeled)
        plain = all_labels
        if regime == "few":
            labels = max(1, round(SHARE * split_sizes(all_labels)["train"]))
            settings = (*loaded, *_few(locked(all_labels), labels))
            plain = work.run("few-plain", *PLAIN, *settings)
        table = _Table(work, regime, settings, plain, all_labels, options, data)
        failures.append(table.fill(methods))
    return failures


def _types(entries: Sequence[Entry]) -> list[str]:
    return [str(entry.get("type")) for entry in entries]


def _few(recipe: Settings, labels: int) -> tuple[str, ...]:
    split = {key: value for key, value in recipe["data"]["train"].items() if value is not None}
    rest = {**split, "split": split.get("split", "train"), "limit": None, "rest": True}
    return (f"data.train.limit={labels}", f"data.unlabeled={json.dumps(rest)}")


def _data_name(recipe: Settings) -> str:
    data = recipe["data"]
    return Path(data["root"]).name if data["type"] == "folder" else data["type"]


class _Table:
    """One base recipe in one regime: a plain student, and a student of each method."""

    def __init__(
        self,
        work: Work,
        regime: str,
        settings: tuple[str, ...],
        plain: Path,
        all_labels: Path,
        options: argparse.Namespace,
        data: str,
    ) -> None:
        self.work, self.regime, self.settings, self.plain = work, regime, settings, plain
        self.options = options
        self.path = options.out / f"gain_{data}.json"
        self.data = data
        sizes = split_sizes(plain)
        self.content: Table = {
            "recipe": work.name,
            "regime": regime,
            "labels": sizes["train"],
            "unlabeled": 0,
            "teacher": teacher_of(all_labels),
            "plain": students_of(plain),
            "methods": {},
            "failed": {},
            "environment": environment(),
        }

    def fill(self, methods: Methods) -> bool:
        """Run every method; return whether one failed."""
        for name, entries in methods.items():
            self._method(name, entries)
        if self.options.best_two:
            found = self.content["methods"]
            ranked = sorted(
                (name for name in methods if name in found),
                key=lambda name: -found[name]["gain"]["mean"],
            )
            if len(ranked) > 1:
                first, second = ranked[:2]
                self._method(f"{first}+{second}", methods[first] + methods[second])
        return bool(self.content["failed"])

    def _method(self, name: str, entries: list[Entry]) -> None:
        run = f"{self.regime}-{name.replace('+', '-and-')}"
        taught = (PLAIN[1], f"distill={json.dumps(entries)}", *self.settings)
        unstored = ("teach=null",) if set(_types(entries)) <= FOUND_ONCE else ()
        try:
            home = self.work.run(run, *taught, *unstored)
            students, gains = students_of(home), compare(self.plain, home)
            method: MethodGain = {"distill": entries, **students, **gains, "equal_time": None}
            if self.options.equal_time:
                method["equal_time"] = self._equal_time(run, home, method["steps"])
            self.content["methods"][name] = method
            self.content["unlabeled"] = split_sizes(home).get("unlabeled", 0)
        except RunError as error:
            if error.code == INTERRUPTED:
                raise KeyboardInterrupt from None
            sys.stderr.write(f"{run}: {error}\n")
            self.content["failed"][name] = str(error)
        self._write()

    def _equal_time(self, run: str, home: Path, steps: int) -> EqualTime:
        """Train a plain student for as many steps as cost the same as the method's; compare."""
        ratio = measured_step_ratio(home)
        once = teaching_ms(home)
        longer = ratio.plain_steps(steps, once)
        settings = (*self.settings, f"train.steps={longer}", "train.epochs=null")
        plain = self.work.run(f"{run}-equal-time-{longer}", *PLAIN, *settings)
        cost: StepCost = {
            "ratio": ratio.ratio,
            "ci95": ratio.ci95,
            "clock": ratio.clock,
            "once_ms": once,
        }
        return {"step_ratio": cost, **students_of(plain), **compare(plain, home)}

    def _write(self) -> None:
        tables: dict[str, Table] = {}
        if self.path.exists():
            tables = json.loads(self.path.read_text(encoding="utf-8"))["tables"]
        key = f"{self.work.name}/{self.regime}"
        old = tables.get(key)
        if (
            old is not None and old["plain"] == self.content["plain"]
        ):  # methods of earlier calls stay valid
            kept = {n: m for n, m in old["methods"].items() if n not in self.content["failed"]}
            self.content["methods"] = {**kept, **self.content["methods"]}
        tables[key] = self.content
        content: Gains = {"schema": 1, "data": self.data, "tables": tables}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(content, self.path)
        draw_gains(content, self.path.with_suffix(".png"))


def _regimes(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not set(names) <= set(REGIMES):
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(REGIMES)}, not {text}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.studies.gain",
        description="Train a student with each method and without; report the gain in AP.",
    )
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="base recipes")
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="METHOD",
        help=f"names of {METHODS.name}, name='[{{type: ...}}]', or YAML files; default: all names",
    )
    parser.add_argument(
        "--regimes",
        type=_regimes,
        default=("all",),
        help="which labels: all, few or both, comma-separated (default: all)",
    )
    parser.add_argument(
        "--best-two", action="store_true", help="also train with the two best methods together"
    )
    parser.add_argument(
        "--equal-time",
        action="store_true",
        help="also train a plain student for steps of the same cost, per method",
    )
    parser.add_argument("--seeds", type=int, help="number of seeds; default: the recipe's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="setting that overrides the recipe's; repeatable",
    )
    parser.add_argument(
        "--data", help="name of the data in the result's file name (default: the folder's)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/gain"), metavar="DIR", help="run folders"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "results", metavar="DIR", help="folder for the results"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
