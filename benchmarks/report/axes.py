"""Shared parts of the plots: colours, axes, saving."""

import io
from pathlib import Path
from typing import TYPE_CHECKING

from export.atomic import write_bytes
from export.optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = {
    "teacher": "#6b7280",
    "baseline": "#e08a00",
    "baseline_equal_time": "#a65e00",
    "student": "#0068b8",
}
OTHER_COLORS = ("#7b4fb5", "#0a8f6a", "#c2417c", "#8a8a00")
INK, SOFT, LINE = "#1f2937", "#5b6472", "#e1e4e9"
PIXELS_PER_INCH = 144


def color_of(title: str, number: int = 0) -> str:
    """Return the colour of a model; `title` begins with the model's name."""
    exact = COLORS.get(title) or COLORS.get(title.split(" ", maxsplit=1)[0])
    return exact or OTHER_COLORS[number % len(OTHER_COLORS)]


def plain(text: str, longest: int) -> str:
    """Shorten text and escape dollar signs, which would start a formula."""
    short = text if len(text) <= longest else text[: longest - 1] + "\u2026"
    return short.replace("$", r"\$")


def plain_ticks(axis: "Axis") -> None:
    """Write 0.5, 1, 2, 5 on a logarithmic axis, not powers of ten."""
    ticker = require("matplotlib.ticker", extra="train", purpose="Drawing plots")
    if axis.get_scale() == "log":
        axis.set_major_locator(ticker.LogLocator(base=10, subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(ticker.NullFormatter())


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> "tuple[Figure, list[Axes]]":
    """Make a figure without pyplot: no global state, no window system."""
    figures = require("matplotlib.figure", extra="train", purpose="Drawing plots")
    figure: Figure = figures.Figure(figsize=(width, height), layout="constrained")
    panels = [figure.add_subplot(rows, columns, n + 1) for n in range(rows * columns)]
    for axes in panels:
        axes.grid(color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=SOFT, labelsize=9)
        axes.xaxis.label.set_color(SOFT)
        axes.yaxis.label.set_color(SOFT)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(LINE)
    return figure, panels


def save(figure: "Figure", path: Path) -> Path:
    """Write the figure as a PNG, atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=PIXELS_PER_INCH, facecolor="white")
    return write_bytes(buffer.getvalue(), path)
