"""Labels of crowded points can still be read."""

from itertools import combinations

import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks.report.label_places import place_labels


@pytest.mark.slow
def test_labels_of_crowded_points_touch_neither_one_another_nor_a_point():
    axes = Figure(figsize=(6, 4)).add_subplot()
    spots = [(1 + 0.02 * i, 40 + i, f"student {i}\nonnxruntime fp32") for i in range(5)]
    axes.scatter(*zip(*[spot[:2] for spot in spots], strict=True))
    axes.set_xlim(0, 2)
    axes.set_ylim(0, 80)
    boxes = [
        Text.get_window_extent(note)
        for note in place_labels(axes, spots, color="black", line="grey")
    ]
    assert len(boxes) == 5
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    for x, y, _ in spots:
        at = axes.transData.transform((x, y))
        assert not any(box.contains(*at) for box in boxes)
