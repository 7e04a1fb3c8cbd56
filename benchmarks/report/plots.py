"""Plots of a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.accuracy.coco_map import COCO_NAMES
from benchmarks.report.axes import COLORS, INK, SOFT, color_of, new_figure, plain, plain_ticks, save
from benchmarks.report.headline_plots import (
    ap_against_time,
    term_curves,
    timed_caption,
    waterfall_bars,
)
from benchmarks.report.label_places import place_labels
from benchmarks.report.schema import ReportData, ReportRow, TrainingRun
from benchmarks.report.text import model_title
from benchmarks.timing.records import Latency

if TYPE_CHECKING:
    from matplotlib.artist import Artist

MARKERS = {"fp32": "o", "fp16": "s", "int8": "^"}
FAINTER = {"fp16": 0.75, "int8": 0.5}  # bars of one model, by precision
CLOCKS = ("seconds", "processor_seconds")
NOT_LOSSES = frozenset({*COCO_NAMES, "step", "epoch", "images", "learning_rate", *CLOCKS})
MOST_CLASSES = 16  # the classes with the lowest AP are drawn; the table has all
MOST_BARS = 5  # per class
LONGEST_NAME, LONGEST_LABEL = 32, 24
LEAST_AP = 1.0  # least height of the plot of AP against latency
MOST_LABELS = 10  # beyond this number only the student and the Pareto front are labelled


@dataclass(frozen=True)
class Plot:
    """A drawn file.

    Attributes:
        chapter: results, training or classes.
        wide: whether it spans the full width of the page.
    """

    path: Path
    title: str
    chapter: str
    wide: bool = False


def draw_plots(data: ReportData, folder: Path) -> list[Plot]:
    """Draw every plot that `data` has numbers for.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plots = []
    spots = _spots(data.rows)
    if spots:
        path = latency_scatter(spots, folder / "latency_ap.png")
        plots.append(
            Plot(path, "Accuracy against end-to-end latency; line: Pareto front", "results")
        )
    if len(data.waterfall) > 1:
        path = waterfall_bars(data.waterfall, folder / "waterfall.png")
        plots.append(
            Plot(path, "AP from the trained models to the device, step by step", "results")
        )
    if data.timed is not None:
        path = ap_against_time(data.timed, folder / "ap_time.png")
        plots.append(Plot(path, timed_caption(data.timed), "results", wide=True))
    runs = data.training
    if any(entry.get("AP") is not None for run in runs.values() for entry in run.curve):
        path = accuracy_curves(runs, folder / "ap_curves.png")
        plots.append(Plot(path, "Validation AP while training", "training"))
    with_losses = {name: run for name, run in runs.items() if _loss_names(run)}
    if with_losses:
        path = loss_curves(with_losses, folder / "losses.png")
        plots.append(Plot(path, "Loss terms as they enter the sum, first seed", "training"))
    terms = {name: run.terms for name, run in runs.items() if run.terms}
    if terms:
        path = term_curves(terms, folder / "terms.png")
        title = "Distillation terms over the task loss: their values and their gradients"
        plots.append(Plot(path, title, "training", wide=True))
    if data.per_class:
        path = class_bars(data.per_class, folder / "per_class.png")
        classes = max(len(column) for column in data.per_class.values())
        most = f", the {MOST_CLASSES} lowest of {classes}" if classes > MOST_CLASSES else ""
        plots.append(Plot(path, f"AP by class{most}", "classes", wide=True))
    return plots


@dataclass(frozen=True)
class Spot:
    """A row in the plot of accuracy against latency.

    Attributes:
        latency: end to end, milliseconds.
        ap: AP points, 0..100.
    """

    row: ReportRow
    latency: Latency
    ap: float

    @property
    def at(self) -> tuple[float, float]:
        """Milliseconds and AP points."""
        return self.latency.p50, self.ap


def _spots(rows: Sequence[ReportRow]) -> list[Spot]:
    return [
        Spot(row, row.latency_ms.end_to_end, 100 * ap)
        for row in rows
        if row.latency_ms is not None and (ap := row.ap["AP"]) is not None
    ]


def latency_scatter(drawn: Sequence[Spot], path: Path) -> Path:
    """Draw AP against median end-to-end latency with its interval, and the Pareto front."""
    figure, (axes,) = new_figure(7, 4.6)
    labels = []
    front = pareto_front([spot.at for spot in drawn])
    crowded = len(drawn) > MOST_LABELS
    for spot in drawn:
        row, (x, y) = spot.row, spot.at
        low, high = spot.latency.ci95_p50
        color = color_of(row.model)
        axes.errorbar(
            x,
            y,
            xerr=[[max(0.0, x - low)], [max(0.0, high - x)]],
            fmt=MARKERS.get(row.precision, "D"),
            color=color,
            markersize=8,
            capsize=3,
            markerfacecolor="white" if row.backend == "torch" else color,
        )
        if not crowded or row.model == "student" or (x, y) in front:
            model = plain(model_title(row), LONGEST_LABEL)
            labels.append((x, y, f"{model}\n{row.backend} {row.precision}"))
    xs = [spot.latency.p50 for spot in drawn]
    if max(xs) > 4 * min(xs):
        axes.set_xscale("log")
    axes.step(*zip(*front, strict=True), where="post", color=SOFT, linewidth=1, zorder=0)
    axes.margins(x=0.14, y=0.16)
    axes.set_ylim(spread(*axes.get_ylim(), LEAST_AP))  # files of one model differ by rounding alone
    axes.set_xlabel("end-to-end latency, median, ms")
    axes.set_ylabel("AP")
    plain_ticks(axes.xaxis)
    place_labels(axes, labels, color=INK, line=SOFT)
    return save(figure, path)


def spread(low: float, high: float, least: float) -> tuple[float, float]:
    """Return the limits of an axis, moved apart to `least` around their middle."""
    apart = max(0.0, least - (high - low)) / 2
    return low - apart, high + apart


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the Pareto front of points (latency, accuracy), by ascending latency."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def accuracy_curves(runs: Mapping[str, TrainingRun], path: Path) -> Path:
    """Draw AP against step, a line per run; further seeds of a model are paler."""
    figure, (axes,) = new_figure(7, 5.2)
    seen: set[str] = set()
    for name, run in runs.items():
        curve = [(step, 100 * ap) for step, ap in _curve(run, "AP")]
        if not curve:
            continue
        first = run.model not in seen
        seen.add(run.model)
        axes.plot(
            *zip(*curve, strict=True),
            color=color_of(run.model),
            alpha=1.0 if first else 0.4,
            label=(run.model.replace("_", " ") if run.model in COLORS else name) if first else None,
            marker="o",
            markersize=3,
        )
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("AP")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    return save(figure, path)


def loss_curves(runs: Mapping[str, TrainingRun], path: Path) -> Path:
    """Draw every loss term against step, a panel per model (first seed), one colour per term."""
    firsts: dict[str, TrainingRun] = {}
    for run in runs.values():
        firsts.setdefault(run.model, run)
    names = list(dict.fromkeys(name for run in firsts.values() for name in _loss_names(run)))
    columns = min(2, len(firsts))
    rows = -(-len(firsts) // columns)
    figure, panels = new_figure(
        3.6 * columns + 0.4, 2.7 * rows + 0.25 * len(names) / 2, rows, columns
    )
    positive = True
    for axes, (model, run) in zip(panels, firsts.items(), strict=False):
        for number, name in enumerate(names):
            curve = _curve(run, name)
            if not curve:
                continue
            positive = positive and all(value > 0 for _, value in curve)
            total = name.rsplit("/", 1)[-1] in ("loss", "total")
            axes.plot(
                *zip(*curve, strict=True),
                label=name,
                linewidth=2.4 if total else 1.4,
                color=INK if total else f"C{number % 10}",
                linestyle="-" if number < 10 else "--",
            )
        axes.set_title(model.replace("_", " "), fontsize=10, color=INK)
    for axes in panels[len(firsts) :]:
        axes.set_visible(False)
    for axes in panels[: len(firsts)]:
        axes.set_yscale("log" if positive else "linear")
        plain_ticks(axes.yaxis)
        axes.set_xlabel("optimizer step")
    entries: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside lower center",
        ncols=3,
        fontsize=9,
        frameon=False,
    )
    return save(figure, path)


def class_bars(per_class: Mapping[str, Mapping[str, float | None]], path: Path) -> Path:
    """Draw AP by class, a bar per row of the table; classes in the order of the student's AP."""
    rows = list(per_class)[:MOST_BARS]
    student = next((row for row in rows if row.startswith("student")), rows[-1])
    by_class = per_class[student]
    classes = sorted(by_class, key=lambda name: (by_class[name] is not None, by_class[name] or 0))
    classes = classes[:MOST_CLASSES]
    legend_lines = -(-len(rows) // 3)
    figure, (axes,) = new_figure(
        9, 0.9 + 0.2 * legend_lines + len(classes) * (0.16 * len(rows) + 0.16)
    )
    height = 0.8 / len(rows)
    for number, row in enumerate(rows):
        places = [place + 0.4 - height * (number + 0.5) for place in range(len(classes))]
        values = [100 * (per_class[row].get(name) or 0) for name in classes]
        title = plain(row.replace("_", " "), 40)
        bars = axes.barh(
            places, values, height, label=title, color=color_of(row, number),
            alpha=next((a for end, a in FAINTER.items() if row.endswith(end)), 1.0),
        )  # fmt: skip
        texts = [
            "n/a" if per_class[row].get(name) is None else f"{value:.0f}"
            for name, value in zip(classes, values, strict=True)
        ]
        axes.bar_label(bars, texts, fontsize=7, padding=2, color=SOFT)
    axes.set_yticks(range(len(classes)), [plain(name, LONGEST_NAME) for name in classes])
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 104)
    axes.set_ylim(-0.6, len(classes) - 0.4)
    axes.set_xlabel("AP")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, fontsize=9, loc="outside upper left", ncols=3)
    return save(figure, path)


def _curve(run: TrainingRun, name: str) -> list[tuple[float, float]]:
    """Return (step, value) of every evaluation that has a value of this name."""
    return [
        (step, value)
        for entry in run.curve
        if (step := entry.get("step")) is not None and (value := entry.get(name)) is not None
    ]


def _loss_names(run: TrainingRun) -> list[str]:
    names: dict[str, None] = {}
    for entry in run.curve:
        names.update(dict.fromkeys(key for key, value in entry.items() if value is not None))
    return [n for n in names if n not in NOT_LOSSES and not n.startswith("ratio/")]
