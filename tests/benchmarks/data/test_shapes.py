import hashlib
import pickle

import numpy as np
import pytest

from benchmarks.data.shapes import STYLES, Difficulty, Shape, ShapePainter, shapes_set
from export.errors import DataError


def test_a_picture_depends_only_on_seed_stream_and_number() -> None:
    painter = ShapePainter(3, 0, 64, 96, "standard")
    again = pickle.loads(pickle.dumps(painter))
    first = painter(5)
    painter(6)
    assert first.shape == (64, 96, 3)
    assert np.array_equal(first, again(5))
    others = [
        painter(6),
        ShapePainter(4, 0, 64, 96, "standard")(5),
        ShapePainter(3, 1, 64, 96, "standard")(5),
    ]
    assert len({hashlib.sha256(p.tobytes()).hexdigest() for p in (first, *others)}) == 4


def test_splits_share_no_picture() -> None:
    sets = [shapes_set(split, range(20), 64, 64, 0, "standard") for split in ("train", "val")]
    contents = [{s.draw(i).tobytes() for i in range(20)} for s in sets if s.draw is not None]
    assert len(contents) == 2
    assert not contents[0] & contents[1]
    assert sets[0].fingerprint != sets[1].fingerprint


@pytest.mark.parametrize("difficulty", ["standard", "hard"])
def test_every_class_occurs_and_boxes_lie_inside(difficulty: Difficulty) -> None:
    images = shapes_set("train", range(60), 128, 128, 0, difficulty)
    labels = np.concatenate([image.labels for image in images.images])
    boxes = np.concatenate([image.boxes for image in images.images])
    style = STYLES[difficulty]
    assert set(labels.tolist()) == set(range(len(style.classes)))
    assert boxes.min() >= 0
    assert boxes.max() <= 128
    assert len(images.classes) == len(images.category_ids) >= 6
    counts = [len(image.labels) for image in images.images]
    assert max(counts) <= style.objects[1]
    assert images.tally.dropped == {}


def test_hard_pictures_hold_more_and_smaller_shapes() -> None:
    means = {}
    for difficulty in ("standard", "hard"):
        images = shapes_set("train", range(40), 128, 128, 0, difficulty).images
        areas = np.concatenate([image.areas for image in images])
        means[difficulty] = (len(areas) / 40, areas.mean())
    assert means["hard"][0] > 1.3 * means["standard"][0]
    assert means["hard"][1] < 0.7 * means["standard"][1]


def test_a_chosen_number_is_drawn_whatever_else_is_chosen() -> None:
    whole = shapes_set("train", range(9), 64, 64, 0, "standard")
    part = shapes_set("train", [7, 2], 64, 64, 0, "standard")
    assert whole.draw is not None
    assert part.draw is not None
    assert np.array_equal(part.draw(0), whole.draw(7))
    assert np.array_equal(part.images[1].boxes, whole.images[2].boxes)
    assert [image.id for image in part.images] == [8, 3]


def test_drawn_pictures_are_counted_without_being_placed() -> None:
    images = shapes_set("train", range(10**6), 64, 64, 0, "standard").images
    assert len(images) == 10**6
    last = images[-1]
    assert last.id == 10**6
    assert images[-1] is last
    assert [image.id for image in images[2:4]] == [3, 4]


class _Placed(ShapePainter):
    """Two given squares, the second over the first."""

    offset = 0.0

    def scene(self, index: int) -> list[Shape]:  # noqa: ARG002
        corners = np.array([[-10.0, -10], [10, -10], [10, 10], [-10, 10]])
        radius = float(np.sqrt(200))  # of the circle through the corners
        below = Shape(2, corners + 32, radius)
        return [below, Shape(2, corners + np.array([32 + self.offset, 32]), radius)]


@pytest.mark.parametrize(("offset", "labelled"), [(2.0, 1), (19.0, 2)])
def test_a_shape_mostly_hidden_is_not_labelled(offset: float, labelled: int) -> None:
    painter = _Placed(0, 0, 64, 64, "standard")
    object.__setattr__(painter, "offset", offset)
    objects = painter.objects(0)
    # 2 of 20 columns show, then 19 of 20; the box is that of the whole shape
    assert len(objects) == labelled
    assert objects[-1].box == (22 + offset, 22, 42 + offset, 42)


def test_a_box_is_tight_on_what_is_drawn() -> None:
    painter = _Placed(0, 0, 64, 64, "standard")
    object.__setattr__(painter, "offset", 0.0)
    canvas = np.full((64, 64, 3), -1000, dtype=np.float32)
    rng = np.random.default_rng(0)
    painter._paint(canvas, painter.scene(0)[0], STYLES["standard"], rng)
    rows, columns = np.nonzero(canvas.max(axis=2) > -500)
    assert (columns.min(), rows.min()) == (22, 22)
    assert abs(columns.max() + 1 - 42) <= 1
    assert abs(rows.max() + 1 - 42) <= 1


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(DataError, match="no split 'dev'; drawn data has train, val, test"):
        shapes_set("dev", range(1), 64, 64, 0, "standard")
