"""List which method works on which detector, at what cost: `python -m compress.methods`.

Prints the table of docs/methods.md, from the settings classes' own `needs` and `check` on pairs of
small real detectors of one family, and from what was measured (`benchmarks/results`). With
`--write` it puts the table between the markers of that file.
"""

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from export.arguments import run_command

if TYPE_CHECKING:
    from compress.detector import Detector
    from compress.detectors.parts.settings import DetectorSettings
    from compress.losses.parts.loss import LossSection
    from compress.parts.norm import Norm
    from export.config import Section

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"(<!-- methods -->\n).*?(<!-- /methods -->)", re.DOTALL)

OF_STUDENT = "roi_source: student"  # a second row of a method in what kd_step measured

CLASSES = 3
SIZE = (64, 96)  # height, width, pixels
TEACHER_WIDTHS, STUDENT_WIDTHS = (32, 32, 32, 32), (16, 16, 16, 16)
# Of these, a family takes what it knows.
SMALL: dict[str, Any] = {
    "width": 16,
    "head_width": 16,
    "head_depth": 1,
    "strides": (8, 16, 32),
    "proposals": 20,
    "rois_per_image": 32,
}
# Settings without which an entry is not complete: any method, helped by this one.
EXAMPLES: dict[str, dict[str, Any]] = {"ikd": {"base": {"type": "defeat"}}}


class SmallPair(NamedTuple):
    """A student and a teacher of one family: equal pyramids and heads, another backbone."""

    student: "Detector"
    teacher: "Detector"


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: the recipe's `type`.
        source: what it was written from, such as released code.
        needs: family that it fits -> outputs that it needs of both detectors.
        problems: family -> reasons why it does not work there; empty where it does.
    """

    name: str
    source: str
    needs: dict[str, tuple[str, ...]]
    problems: dict[str, tuple[str, ...]]


def loss_settings() -> dict[str, "type[LossSection]"]:
    """Return `type` -> settings class of every distillation method."""
    from compress.losses import LossConfig
    from compress.losses.parts.loss import LossSection

    return {tag: one for tag, one in _by_type(LossConfig) if issubclass(one, LossSection)}


def detector_settings() -> dict[str, "type[DetectorSettings]"]:
    """Return `type` -> settings class of every detector family."""
    from compress.detectors import DetectorConfig
    from compress.detectors.parts.settings import DetectorSettings

    found = _by_type(DetectorConfig)
    return {tag: one for tag, one in found if issubclass(one, DetectorSettings)}


def _by_type(union: object) -> "list[tuple[str, type[Section]]]":
    classes: tuple[type[Section], ...] = get_args(get_args(union)[0])  # of Annotated[A | B, ...]
    return [(get_args(one.model_fields["type"].annotation)[0], one) for one in classes]


def families() -> tuple[str, ...]:
    """Return the names of the detector families."""
    return tuple(detector_settings())


def small_pair(family: str, norm: "Norm" = "batch") -> SmallPair:
    """Build a small student and teacher of a family, with random weights."""
    settings_class = detector_settings()[family]
    known = {key: value for key, value in SMALL.items() if key in settings_class.model_fields}
    known["norm"] = norm

    def build(widths: tuple[int, ...]) -> "Detector":
        backbone = {"type": "slim_resnet", "widths": widths}
        config = settings_class.model_validate({"type": family, **known, "backbone": backbone})
        return config.build(CLASSES, SIZE)

    return SmallPair(build(STUDENT_WIDTHS), build(TEACHER_WIDTHS))


def example(name: str) -> "LossSection":
    """Return a method's default settings, completed by `EXAMPLES` where some are required."""
    return loss_settings()[name].model_validate({"type": name, **EXAMPLES.get(name, {})})


def support() -> list[Method]:
    """Match every method with every family; ordered by name."""
    from compress.distillation.pairing import check_pair

    pairs = {family: small_pair(family) for family in families()}
    rows = []
    for name, settings in sorted(loss_settings().items()):
        config, problems = example(name), {}
        needs: dict[str, tuple[str, ...]] = {}
        for family, (student, teacher) in pairs.items():
            problems[family] = tuple(
                text for _, text in check_pair(student.spec, teacher.spec, [config])
            )
            if not problems[family]:
                needs[family] = tuple(sorted(config.needs(student.spec, teacher.spec)))
        rows.append(Method(name, _source(name, settings), needs, problems))
    return rows


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
    return MARKED.sub(lambda match: f"{match[1]}{table}\n{match[2]}", document)


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog=prog, description="The methods, what each needs, and the detectors that it works on."
    )
    parser.add_argument("--write", action="store_true", help="into docs/methods.md")
    parser.add_argument("--why", action="store_true", help="also say what keeps a pair apart")
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "python -m compress.methods") -> int:
    """Print the table, or write it into docs/methods.md."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: _print(options))


def _print(options: argparse.Namespace) -> int:
    if options.write:
        path = ROOT / "docs" / "methods.md"
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    rows = support()
    sys.stdout.write(markdown(rows, ROOT / "benchmarks" / "results") + "\n")
    if options.why:
        for row in rows:
            for family, problems in row.problems.items():
                for problem in problems:
                    sys.stdout.write(f"{row.name} on {family}: {problem}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
