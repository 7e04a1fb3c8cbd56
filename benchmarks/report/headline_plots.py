"""Plots of the AP waterfall, of AP against time and of the distillation terms over time."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report.axes import INK, SOFT, color_of, new_figure, plain, plain_ticks, save
from benchmarks.report.schema import Stage, TermSize
from benchmarks.report.text import signed_points
from benchmarks.timing.timed_curves import TimedCurve, TimedCurves

if TYPE_CHECKING:
    from matplotlib.artist import Artist

GAIN, LOSS = "#0a7d4f", "#b42318"
VISIBLE = 0.15  # AP points; a smaller change is not hatched
MOST_RUNS = 3  # runs with terms that are drawn; further seeds are similar
LONGEST_TITLE = 44
TIMED = {  # in the order of the legend
    "baseline": "plain",
    "baseline_equal_time": "plain, equal time",
    "student": "distilled",
}


def waterfall_bars(stages: Sequence[Stage], path: Path) -> Path:
    """Draw a bar per stage, first on top; changes against the stage it derives from are hatched."""
    figure, (axes,) = new_figure(7, 1.0 + 0.42 * len(stages))
    by_title = {stage.title: stage.ap for stage in stages}
    highest = 100 * max(by_title.values())
    for place, stage in enumerate(stages):
        ap, change, against = 100 * stage.ap, stage.change, stage.against
        end = ap
        axes.barh(place, ap, 0.62, color=color_of(stage.model), alpha=0.75)
        text = f"{ap:.1f}"
        if change is not None and against is not None:
            before = 100 * by_title[against]
            end = max(ap, before)
            if abs(ap - before) >= VISIBLE:
                axes.barh(
                    place, abs(ap - before), 0.62, left=min(ap, before), facecolor="none",
                    linewidth=1.2, edgecolor=GAIN if change > 0 else LOSS, hatch="////",
                )  # fmt: skip
            text += f"  ({signed_points(change, 2 if abs(change) < 0.01 else 1)})"
        axes.annotate(
            text, (end, place), (5, 0), textcoords="offset points", va="center", fontsize=9,
            color=INK,
        )  # fmt: skip
    axes.set_yticks(range(len(stages)), [plain(stage.title, LONGEST_TITLE) for stage in stages])
    axes.set_ylim(len(stages) - 0.4, -0.6)
    axes.set_xlim(0, max(1.0, highest) * 1.24)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("AP; hatched: the change against the stage it derives from")
    return save(figure, path)


def ap_against_time(timed: TimedCurves, path: Path) -> Path:
    """Draw AP against seconds: bold the mean over seeds, pale the seeds where there are several."""
    figure, (axes,) = new_figure(9, 4.4)
    for model, title in TIMED.items():
        curves = [curve for curve in timed.curves if curve.model == model]
        if not curves:
            continue
        color = color_of(model)
        if len(curves) > 1:
            for curve in curves:
                axes.plot(*_drawn(curve.points), color=color, alpha=0.3, linewidth=1, marker=".")
        mean = _mean(curves)
        seconds, ap = mean[-1]
        seeds = f", mean of {len(curves)} seeds" if len(curves) > 1 else ""
        axes.plot(
            *_drawn(mean), color=color, linewidth=2, marker="o", markersize=5,
            linestyle="--" if model == "baseline_equal_time" else "-",
            label=f"{title}: {100 * ap:.1f} after {seconds:.3g} s{seeds}",
        )  # fmt: skip
    if timed.taught_s:
        axes.axvspan(
            0, timed.taught_s, color=color_of("student"), alpha=0.1, linewidth=0,
            label=f"storing the teacher's outputs: {timed.taught_s:.3g} s",
        )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"seconds ({timed.clock})")
    axes.set_ylabel("AP")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    return save(figure, path)


def _drawn(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return seconds and AP points, 0..100."""
    return [seconds for seconds, _ in points], [100 * ap for _, ap in points]


def _mean(curves: Sequence[TimedCurve]) -> list[tuple[float, float]]:
    """Return mean seconds and AP of the evaluations that all seeds have."""
    together = zip(*(curve.points for curve in curves), strict=False)  # one may have ended early
    return [
        (statistics.fmean(s for s, _ in points), statistics.fmean(ap for _, ap in points))
        for points in together
    ]


def timed_caption(timed: TimedCurves) -> str:
    """Return what the plot of AP against time counts."""
    stored = ""
    if timed.taught_s:
        stored = (
            f" and, before them, the {timed.taught_s:.3g} s in which the teacher's outputs were "
            "stored"
        )
    return (
        f"Validation AP against time ({timed.clock}). Counted are the training steps with the "
        f"teacher's passes in them{stored}; not evaluations, checkpoints, interruptions and the "
        "training of the teacher. Compare the ends of the curves: before them the learning rate is "
        "still high."
    )


def term_curves(runs: Mapping[str, Sequence[TermSize]], path: Path) -> Path:
    """Draw two panels per run: each term's value and gradient relative to the task loss."""
    chosen = list(runs.items())[:MOST_RUNS]
    names = list(dict.fromkeys(entry.name for _, entries in chosen for entry in entries))
    lines = -(-len(names) // 4)
    figure, panels = new_figure(9, 2.6 * len(chosen) + 0.25 * lines, len(chosen), 2)
    entries_of: dict[str, Artist] = {}
    for row, (run, entries) in enumerate(chosen):
        for column, title in enumerate(("value", "gradient")):
            axes = panels[2 * row + column]
            positive = False
            for number, name in enumerate(names):
                curve = [
                    (entry.step, ratio)
                    for entry in entries
                    if entry.name == name
                    and entry.step is not None
                    and (ratio := entry.gradient_ratio if column else entry.ratio) is not None
                ]
                if not curve:
                    continue
                positive = positive or any(value > 0 for _, value in curve)
                (line,) = axes.plot(
                    *zip(*curve, strict=True),
                    color=f"C{number % 10}",
                    linestyle="-" if number < 10 else "--",
                    linewidth=1.4,
                    marker="o",
                    markersize=2.5,
                )
                entries_of.setdefault(plain(name, LONGEST_TITLE), line)
            if positive:
                axes.set_yscale("log", nonpositive="mask")
                plain_ticks(axes.yaxis)
            axes.axhline(1, color=SOFT, linewidth=0.8, linestyle=":")
            axes.set_title(f"{plain(run, 24)}: {title} / task loss", fontsize=10, color=INK)
            axes.set_xlabel("optimizer step")
    figure.legend(
        list(entries_of.values()), list(entries_of), loc="outside lower center", ncols=4,
        fontsize=8, frameon=False,
    )  # fmt: skip
    return save(figure, path)
