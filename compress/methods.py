"""List the distillation methods, or describe one: `python -m compress.methods [NAME]`.

What a method needs and which detectors it works on follows from the settings classes' own `needs`
and `check`, on pairs of small real detectors of one family; costs and gains are those measured
(`benchmarks/results`). With `--write` the table between the markers of docs/methods.md is made.
"""

import argparse
import difflib
import json
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from export.arguments import parser_of, run_command
from export.errors import RecipeError, shown
from export.optional import require

if TYPE_CHECKING:
    from compress.losses.parts.loss import LossSection

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 80  # characters of a terminal
HEAD = re.compile(
    r"[^:]+: (?P<purpose>.+?)(?: \((?P<paper>[^()]+)\))?(?P<rest>[^()]*)\.", re.DOTALL
)
MARKED = re.compile(r"(<!-- methods -->\n).*?(<!-- /methods -->)", re.DOTALL)
MARKED_PAIRS = re.compile(r"(<!-- pairs -->\n).*?(<!-- /pairs -->)", re.DOTALL)

OF_STUDENT = "roi_source: student"  # a second row of a method in what kd_step measured

# Settings without which an entry is not complete: any method, helped by this one.
EXAMPLES: dict[str, dict[str, Any]] = {"ikd": {"base": {"type": "defeat"}}}


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: the recipe's `type`.
        source: what it was written from, such as released code.
        needs: family that it fits -> outputs that it needs of both detectors.
        problems: family -> reasons why it does not work there; empty where it does.
        purpose: what it does, in a line.
        paper: authors, venue and year; "" of a textbook loss.
        text: paragraphs on how it is done here.
    """

    name: str
    source: str
    needs: dict[str, tuple[str, ...]]
    problems: dict[str, tuple[str, ...]]
    purpose: str = ""
    paper: str = ""
    text: tuple[str, ...] = ()

    @property
    def works_on(self) -> list[str]:
        """Families on which it works."""
        return [family for family, problems in self.problems.items() if not problems]


def loss_settings() -> dict[str, "type[LossSection]"]:
    """Return `type` -> settings class of every distillation method."""
    from compress.losses import LossConfig
    from compress.losses.parts.loss import LossSection

    classes = get_args(get_args(LossConfig)[0])  # of Annotated[A | B, ...]
    tags = {get_args(one.model_fields["type"].annotation)[0]: one for one in classes}
    return {tag: one for tag, one in tags.items() if issubclass(one, LossSection)}


def families() -> tuple[str, ...]:
    """Return the names of the detector families whose packages are installed."""
    from compress.detectors.small_pairs import families

    return families()


def example(name: str) -> "LossSection":
    """Return a method's default settings, completed by `EXAMPLES` where some are required."""
    return loss_settings()[name].model_validate({"type": name, **EXAMPLES.get(name, {})})


@cache
def support(*names: str) -> tuple[Method, ...]:
    """Match methods, by default all, with every family; ordered by name."""
    from compress.detector import BEFOREHAND
    from compress.detectors.small_pairs import planned_pair
    from compress.distillation.pairing import check_pair

    pairs = {family: planned_pair(family) for family in families()}
    rows = []
    for name, settings in sorted(loss_settings().items()):
        if names and name not in names:
            continue
        config, problems = example(name), {}
        needs: dict[str, tuple[str, ...]] = {}
        for family, (student, teacher) in pairs.items():
            problems[family] = tuple(
                text for _, text in check_pair(student.spec, teacher.spec, [config])
            )
            if not problems[family]:
                asked = config.needs(student.spec, teacher.spec)
                asked |= config.teacher_needs(student.spec, teacher.spec) & BEFOREHAND
                needs[family] = tuple(sorted(asked))
        source = _source(name, settings)
        rows.append(Method(name, source, needs, problems, *_described(settings)))
    return tuple(rows)


def _described(settings: "type[LossSection]") -> tuple[str, str, tuple[str, ...]]:
    """Return purpose, paper and paragraphs of the docstring of a method's file."""
    head, *rest = (sys.modules[settings.__module__].__doc__ or "").strip().split("\n\n")
    text = tuple(" ".join(one.split()) for one in rest)
    found = HEAD.fullmatch(head)
    if found is None:
        return head.replace("\n", " "), "", text
    return f"{found['purpose']}{found['rest']}".replace("\n", " "), found["paper"] or "", text


def _source(name: str, settings: "type[LossSection]") -> str:
    vectors = any((ROOT / "tests" / "golden").glob(f"{name}_*.npz"))
    return f"{settings.written_from}{', golden vectors' if vectors else ''}"


def markdown(rows: Sequence[Method], results: Path) -> str:
    """Write the table, with a column for each measurement in `results`."""
    costs, gains = _costs(results), _gains(results)
    header = ["method", "source", "needs", *families(), *costs, *gains]
    lines = [header, ["---"] * len(header)]
    for row in rows:
        cells = [f"`{row.name}`", row.source, _in_words(row.needs)]
        cells += ["no" if row.problems[family] else "yes" for family in families()]
        cells += [column.get(row.name, "-") for column in (*costs.values(), *gains.values())]
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _in_words(needs: Mapping[str, Sequence[str]]) -> str:
    """Return the needs common to all families, then those of some families."""
    asked = dict.fromkeys(one for found in needs.values() for one in found)
    where = {one: [family for family, found in needs.items() if one in found] for one in asked}
    common = [one for one in sorted(asked) if len(where[one]) == len(needs)]
    some = [f"{one} ({', '.join(where[one])})" for one in sorted(asked) if one not in common]
    return ", ".join(common + some)


def _costs(results: Path) -> dict[str, dict[str, str]]:
    """Return column -> method -> distilled step / (student step + teacher forward), by pair.

    In brackets what it is with the student's proposals, where that was measured too.
    """
    columns = {}
    for path in sorted(results.glob("kd_step_*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        cells: dict[str, list[str]] = {}
        names = list(found["pairs"])
        for pair in found["pairs"].values():
            for method in {name for one in found["pairs"].values() for name in one["methods"]}:
                measured = pair["methods"].get(method)
                text = f"{measured['over_floor']:.2f}" if measured else "-"
                other = pair["methods"].get(f"{method}, {OF_STUDENT}")
                text += f" ({other['over_floor']:.2f})" if other else ""
                cells.setdefault(method, []).append(text)
        where = path.stem.removeprefix("kd_step_")
        bracketed = any(OF_STUDENT in name for name in cells)
        title = f"step / floor on {where}: {', '.join(names)}"
        title += f" (with {OF_STUDENT})" if bracketed else ""
        columns[title] = {method: " / ".join(texts) for method, texts in cells.items()}
    return columns


def _gains(results: Path) -> dict[str, dict[str, str]]:
    """Return column -> method -> AP points over the plain student, with the interval over seeds."""
    columns = {}
    for path in sorted(results.glob("gain_*.json")):
        for key, table in json.loads(path.read_text(encoding="utf-8"))["tables"].items():
            cells = {}
            for name, method in table["methods"].items():
                gain = method["gain"]
                ends = [f"{100 * end:+.1f}" for end in gain["ci95"] or ()]
                spread = f" [{', '.join(ends)}]" if ends else ""
                cells[name] = f"{100 * gain['mean']:+.1f}{spread}"
            columns[f"AP gain, {key}"] = cells
    return columns


def filled(document: str) -> str:
    """Return the text of docs/methods.md with the table between its markers made anew."""
    table = markdown(support(), ROOT / "benchmarks" / "results")
    document = MARKED.sub(lambda match: f"{match[1]}{table}\n{match[2]}", document)
    of_pairs = pairs_markdown()
    return MARKED_PAIRS.sub(lambda match: f"{match[1]}{of_pairs}\n{match[2]}", document)


def pairs_markdown() -> str:
    """Write the table of pairs of unlike detectors: teacher to student, then what does not work."""
    from compress.detectors.small_pairs import unlike_pairs

    names = sorted(loss_settings())
    lines = ["| teacher to student | methods | not |", "| --- | --- | --- |"]
    for pair, settings in unlike_pairs().items():
        works = working_methods(*settings)
        refused = ", ".join(f"`{name}`" for name in names if name not in works) or "-"
        lines.append(f"| {pair} | {len(works)} | {refused} |")
    return "\n".join(lines)


def working_methods(student: Mapping[str, Any], teacher: Mapping[str, Any]) -> list[str]:
    """Return the methods that work on a small student and teacher of these settings."""
    from compress.detectors.small_pairs import planned
    from compress.distillation.pairing import check_pair

    specs = planned(student).spec, planned(teacher).spec
    return [name for name in sorted(loss_settings()) if not check_pair(*specs, [example(name)])]


def listing(rows: Sequence[Method]) -> str:
    """Return the methods as a table for a terminal."""
    name = max(len(row.name) for row in rows)
    lines = [f"{'method':<{name}}  what it does"]
    for row in rows:
        works = row.works_on
        some = "" if len(works) == len(families()) else f" (only {', '.join(works)})"
        lines += textwrap.wrap(
            f"{row.name:<{name}}  {row.purpose}{some}", WIDTH, subsequent_indent=" " * (name + 2)
        )
    lines += [
        "",
        *textwrap.wrap(f"all detectors where none is named: {', '.join(families())}", WIDTH),
    ]
    lines += ["`slimdet methods NAME`: paper, needs, measurements and settings of a method"]
    return "\n".join(lines)


def page(row: Method, results: Path) -> str:
    """Return the description of one method, for a terminal."""
    from compress.reading.commented import commented

    facts = {"paper": row.paper, "written from": row.source, "works on": ", ".join(row.works_on)}
    facts |= {f"not on {one}": _of_both(said) for one, said in row.problems.items()}
    facts["needs of student and teacher"] = _in_words(row.needs)
    columns = {**_costs(results), **_gains(results)}
    facts |= {title: cells[row.name] for title, cells in columns.items() if row.name in cells}
    lines = textwrap.wrap(f"{row.name}: {row.purpose}", WIDTH)
    for what, said in facts.items():
        if said:
            lines += textwrap.wrap(f"- {what}: {said}", WIDTH, subsequent_indent="  ")
    for paragraph in row.text:
        lines += ["", *textwrap.wrap(paragraph, WIDTH)]
    required = " and ".join(["type", *EXAMPLES.get(row.name, ())])
    lines += ["", f"In a recipe; all but {required} may be left out, and are at their defaults:"]
    first, *others = commented(example(row.name), width=WIDTH, indent=4)
    return "\n".join([*lines, "", "distill:", f"  - {first.strip()}", *others])


def _of_both(problems: Sequence[str]) -> str:
    """Join problems; one that a student and a teacher of one family share is listed once."""
    alike = (re.sub(r"\b(student|teacher) (?=')", "", problem) for problem in problems)
    return "; ".join(dict.fromkeys(alike))


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        RecipeError: there is none.
    """
    known = sorted(loss_settings())
    if name not in known:
        near = difflib.get_close_matches(name.lower(), known, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise RecipeError(
            f"{shown(name)}: there is no such method; {hint}(there are: {', '.join(known)})"
        )
    return support(name)[0]


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = parser_of(
        prog,
        "List the distillation methods, or describe one: its paper, what it needs, the detectors "
        "that it works on, its settings with their defaults.",
        "0 done, 1 other failure, 2 there is no such method, 4 a package is missing",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the method to describe")
    parser.add_argument(
        "--why", action="store_true", help="also print why a method does not work on a detector"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="print the table of docs/methods.md instead"
    )
    parser.add_argument(
        "--write", action="store_true", help="write the table of docs/methods.md (in a checkout)"
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m compress.methods") -> int:
    """Print the list or a description, or write the table of docs/methods.md."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: _print(options))


def _print(options: argparse.Namespace) -> int:
    for package in ("torch", "torchvision"):
        require(package, extra="train", purpose="Matching methods with detectors")
    if options.write:
        path = ROOT / "docs" / "methods.md"
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if options.name is not None:
        method = find_method(options.name)
        sys.stdout.write(page(method, ROOT / "benchmarks" / "results") + "\n")
        return 0
    rows = support()
    shown = markdown(rows, ROOT / "benchmarks" / "results") if options.markdown else listing(rows)
    sys.stdout.write(shown + "\n")
    if options.why:
        for row in rows:
            for family, problems in row.problems.items():
                for problem in problems:
                    sys.stdout.write(f"{row.name} on {family}: {problem}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
