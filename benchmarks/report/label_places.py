"""Place labels of points so that labels and points do not overlap."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Offsets in points and the text's alignment, nearest first; the far ones get a line.
NEAR = ((0, 19, "center"), (0, -19, "center"), (10, 0, "left"), (-10, 0, "right"))
FAR = tuple(
    (dx, dy, side)
    for reach in (1.0, 1.7, 2.5)
    for dx, dy, side in (
        (18 * reach, 18 * reach, "left"),
        (18 * reach, -18 * reach, "left"),
        (-18 * reach, 18 * reach, "right"),
        (-18 * reach, -18 * reach, "right"),
        (0, 32 * reach, "center"),
        (0, -32 * reach, "center"),
    )
)
MARKER_PX = 7


def place_labels(
    axes: "Axes", spots: Sequence[tuple[float, float, str]], *, color: str, line: str
) -> list["Annotation"]:
    """Annotate each (x, y, text) at the place with the least overlap; return the annotations.

    Places are tried in order in the drawn figure; the first without overlap is taken.
    """
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    figure = axes.get_figure(root=True)
    assert isinstance(figure, Figure)
    figure.draw_without_rendering()
    taken = [_around(axes, x, y) for x, y, _ in spots]
    frame = axes.get_window_extent()
    placed = []
    for x, y, text in spots:
        best: tuple[float, Annotation, Bbox] | None = None
        for number, (dx, dy, side) in enumerate((*NEAR, *FAR)):
            note = axes.annotate(
                text,
                (x, y),
                (dx, dy),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8,
                color=color,
                bbox={"facecolor": "white", "alpha": 0.8, "pad": 0.5, "linewidth": 0},
                arrowprops={"arrowstyle": "-", "color": line, "lw": 0.6}
                if number >= len(NEAR)
                else None,
            )
            note.set_in_layout(False)
            note.get_window_extent()  # computes its position
            box = Text.get_window_extent(note)  # without the line to the point
            cost = sum(_overlap(box, other) for other in taken) + _outside(box, frame)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, note, box)
            else:
                note.remove()
            if best[0] == 0:
                break
        assert best is not None
        taken.append(best[2])
        placed.append(best[1])
    return placed


def _around(axes: "Axes", x: float, y: float) -> "Bbox":
    from matplotlib.transforms import Bbox

    left, low = axes.transData.transform((x, y))
    return Bbox.from_extents(left - MARKER_PX, low - MARKER_PX, left + MARKER_PX, low + MARKER_PX)


def _overlap(one: "Bbox", other: "Bbox") -> float:
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return float(width * height) if width > 0 and height > 0 else 0.0


def _outside(box: "Bbox", frame: "Bbox") -> float:
    sides = (frame.x0 - box.x0, box.x1 - frame.x1, frame.y0 - box.y0, box.y1 - frame.y1)
    return float(sum(max(0.0, side) for side in sides)) * 10
