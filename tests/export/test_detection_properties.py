"""NMS on generated boxes, against an oracle that compares every pair, and what it must keep."""

from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from export.artifact.manifest import NmsSpec
from export.detections import (
    CHUNK,
    Candidates,
    Detections,
    overlapping,
    select_detections,
    suppress,
    to_photograph,
)
from export.pictures.images import fit

# Whole numbers and limits that are sums of halves: every overlap is exact in float32.
EDGE = st.integers(0, 12)
LIMIT = st.sampled_from([0.125, 0.25, 0.5, 0.75])


class Scene(NamedTuple):
    """Boxes of one picture, best first."""

    boxes: NDArray[np.float32]  # (n, 4) xyxy; some have no area
    scores: NDArray[np.float32]  # (n,) falling, all different
    labels: NDArray[np.int32]  # (n,) in 0..2


@st.composite
def scenes(draw: st.DrawFn, most: int = 24) -> Scene:
    corners = draw(st.lists(st.tuples(EDGE, EDGE, EDGE, EDGE), max_size=most))
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    labels = draw(st.lists(st.integers(0, 2), min_size=len(boxes), max_size=len(boxes)))
    return Scene(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.95, 0.15, len(boxes), dtype=np.float32),
        np.array(labels, np.int32),
    )


def _iou(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Overlap of each pair (n, n); 0 where neither has area."""
    sides = [np.minimum.outer(boxes[:, i + 2], boxes[:, i + 2]) for i in (0, 1)]
    sides = [s - np.maximum.outer(boxes[:, i], boxes[:, i]) for i, s in enumerate(sides)]
    shared = sides[0].clip(0).astype(np.float64) * sides[1].clip(0)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    union = np.add.outer(areas, areas) - shared
    iou: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou


def _oracle(scene: Scene, limit: float) -> list[int]:
    """Keep a box unless a kept one of its class overlaps it by more than `limit`."""
    rivals = (_iou(scene.boxes) > limit) & np.equal.outer(scene.labels, scene.labels)
    kept: list[int] = []
    for index in range(len(scene.boxes)):
        if not rivals[index, kept].any():
            kept.append(index)
    return kept


def _select(scene: Scene, limit: float, at_most: int = 100, threshold: float = 0.1) -> Detections:
    batch = Candidates(scene.boxes[None], scene.scores[None], scene.labels[None])
    nms = NmsSpec(iou=limit, max_detections=at_most)
    return select_detections(batch, nms, threshold)[0]


def _rows(some: Detections, which: slice | NDArray[np.bool_]) -> Detections:
    return Detections(some.boxes[which], some.scores[which], some.labels[which])


def _same(one: Detections, other: Detections) -> bool:
    pairs = zip((one.boxes, one.scores, one.labels), vars(other).values(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@given(scene=scenes(), limit=LIMIT)
def test_nms_keeps_what_the_comparison_of_every_pair_keeps(scene: Scene, limit: float) -> None:
    kept = suppress(scene.boxes, scene.labels, limit, 100).tolist()
    assert kept == _oracle(scene, limit)


@settings(max_examples=10)
@given(scene=scenes(most=12), limit=LIMIT, seed=st.integers(0, 99))
def test_boxes_beyond_one_chunk_are_compared_with_those_before(
    scene: Scene, limit: float, seed: int
) -> None:
    """Hundreds of boxes on few places, so that most of a chunk is gone before its turn."""
    rng = np.random.default_rng(seed)
    count = CHUNK * 2 + 7
    corners = rng.integers(0, 5, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 4, (count, 2))], axis=1)
    many = Scene(
        np.concatenate([scene.boxes, boxes.astype(np.float32)]),
        np.linspace(0.9, 0.2, len(scene.boxes) + count, dtype=np.float32),
        np.concatenate([scene.labels, rng.integers(0, 3, count).astype(np.int32)]),
    )
    kept = suppress(many.boxes, many.labels, limit, 1000).tolist()
    assert kept == _oracle(many, limit)


@pytest.mark.slow
@given(scene=scenes(), limit=LIMIT, order=st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(
    scene: Scene, limit: float, order: Random
) -> None:
    places = list(range(len(scene.boxes)))
    order.shuffle(places)
    shuffled = Scene(scene.boxes[places], scene.scores[places], scene.labels[places])
    assert _same(_select(scene, limit), _select(shuffled, limit))


@pytest.mark.slow
@given(scene=scenes(), limit=LIMIT)
def test_nms_of_what_it_kept_keeps_all(scene: Scene, limit: float) -> None:
    once = _select(scene, limit)
    assert _same(once, _select(Scene(once.boxes, once.scores, once.labels), limit))


@pytest.mark.slow
@given(scene=scenes(), limit=LIMIT, at_most=st.integers(1, 6))
def test_fewer_detections_are_the_first_of_more(scene: Scene, limit: float, at_most: int) -> None:
    few, all_of_them = _select(scene, limit, at_most), _select(scene, limit)
    assert _same(few, _rows(all_of_them, slice(at_most)))


@pytest.mark.slow
@given(scene=scenes(), limit=LIMIT, threshold=st.floats(0.125, 0.875, allow_subnormal=False))
def test_a_threshold_before_nms_is_one_after_it(
    scene: Scene, limit: float, threshold: float
) -> None:
    before, everything = _select(scene, limit, threshold=threshold), _select(scene, limit)
    assert _same(before, _rows(everything, everything.scores > threshold))


@pytest.mark.slow
@given(scene=scenes(most=10), limit=LIMIT)
def test_the_matrix_of_overlaps_is_that_of_the_pairs(scene: Scene, limit: float) -> None:
    found = overlapping(scene.boxes, scene.labels, limit)
    same = np.equal.outer(scene.labels, scene.labels)
    assert (found == (same & (_iou(scene.boxes) > limit))).all()


@pytest.mark.slow
@given(
    scene=scenes(most=8),
    photo=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    size=st.tuples(st.integers(8, 64), st.integers(8, 64)),
)
def test_on_the_photograph_every_box_is_inside_and_has_area(
    scene: Scene, photo: tuple[int, int], size: tuple[int, int]
) -> None:
    place = fit(*photo, *size)
    found = to_photograph(Detections(scene.boxes, scene.scores, scene.labels), place, *photo)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= np.array([*photo, *photo])).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    touching = (scene.boxes[:, 0] < place.width) & (scene.boxes[:, 1] < place.height)
    with_area = (scene.boxes[:, 2:] > scene.boxes[:, :2]).all(axis=1)
    assert set(found.scores) == set(scene.scores[touching & with_area])
