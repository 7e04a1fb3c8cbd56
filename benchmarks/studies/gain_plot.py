"""Draw the tables of `benchmarks.studies.gain`: a dot with its interval per method."""

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.report.axes import INK, SOFT, new_figure, save
from benchmarks.studies.gain_table import Gain, Gains, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EQUAL_STEPS, EQUAL_TIME = "#0068b8", "#e08a00"
REGIMES = {"all": "all labels", "few": "a fifth of the labels"}


def draw_gains(content: Gains, path: Path) -> Path:
    """Draw every table that has a method; return the picture's path.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    tables = [table for table in content["tables"].values() if table["methods"]]
    heights = [1.0 + 0.42 * len(table["methods"]) for table in tables]
    figure, panels = new_figure(8.5, max(2.0, sum(heights) + 0.5), rows=max(1, len(tables)))
    grid = panels[0].get_gridspec()
    if grid is not None and heights:
        grid.set_height_ratios(heights)
    for axes in panels[1:]:
        axes.sharex(panels[0])  # one scale, so that gains can be compared
    for table, axes in zip(tables, panels, strict=False):
        _panel(table, axes)
    if tables:
        named = {  # each once, whichever methods have it
            text: dot
            for axes in panels
            for dot, text in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            list(named.values()),
            list(named),
            loc="outside lower right",
            ncols=2,
            frameon=False,
            fontsize=8,
        )
        panels[len(tables) - 1].set_xlabel(
            f"AP points gained on {content['data']} by the exported student: mean, 95 % interval, "
            "and a tick per seed"
        )
    return save(figure, path)


def _panel(table: Table, axes: "Axes") -> None:
    methods = table["methods"]
    ranked = sorted(methods, key=lambda name: methods[name]["gain"]["mean"])
    axes.axvline(0, color=SOFT, linewidth=1)
    for place, name in enumerate(ranked):
        method = methods[name]
        _dot(axes, method["gain"], place, EQUAL_STEPS, "equal steps")
        longer = method.get("equal_time")
        if longer is not None:
            _dot(axes, longer["gain"], place - 0.28, EQUAL_TIME, "equal time")
    axes.set_yticks(range(len(ranked)), ranked)
    axes.set_ylim(-0.7, len(ranked) - 0.4)
    axes.grid(axis="y", visible=False)
    plain, teacher = table["plain"]["ap_onnx"], table["teacher"]["ap_onnx"]
    seeds = f"{len(plain)} seed{'s' if len(plain) > 1 else ''}"
    axes.set_title(
        f"{table['recipe']}, {REGIMES[table['regime']]} ({table['labels']} pictures, {seeds}): "
        f"teacher {100 * teacher:.1f}, plain {100 * sum(plain) / len(plain):.1f}",
        loc="left",
        fontsize=10,
        color=INK,
    )


def _dot(axes: "Axes", gain: Gain, place: float, color: str, label: str) -> None:
    mean = 100 * gain["mean"]
    if gain["ci95"] is not None:
        low, high = (100 * end for end in gain["ci95"])
        axes.plot([low, high], [place, place], color=color, linewidth=2, alpha=0.55)
    axes.plot(
        [100 * value for value in gain["per_seed"]],
        [place] * len(gain["per_seed"]),
        linestyle="",
        marker="|",
        markersize=7,
        color=color,
    )
    axes.plot([mean], [place], linestyle="", marker="o", markersize=6, color=color, label=label)
    axes.text(
        1.01,
        place,
        f"{mean:+.1f}",
        transform=axes.get_yaxis_transform(),
        va="center",
        fontsize=8,
        color=color,
    )
