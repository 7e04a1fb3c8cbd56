"""Plots of the AP waterfall and of the distillation terms over time."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report.axes import INK, SOFT, color_of, new_figure, plain, plain_ticks, save
from benchmarks.report.schema import Stage, TermSize
from benchmarks.report.text import signed_points

if TYPE_CHECKING:
    from matplotlib.artist import Artist

GAIN, LOSS = "#0a7d4f", "#b42318"
VISIBLE = 0.15  # AP points; a smaller change is not hatched
MOST_RUNS = 3  # runs with terms that are drawn; further seeds are similar
LONGEST_TITLE = 44


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
