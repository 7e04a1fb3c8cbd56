"""Generated data sets, written to disk in each format and read back."""

import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.data.annotations import RawObject, ReadingNotes, clipped
from benchmarks.data.detect import detect_format
from benchmarks.data.folder import read_whole
from benchmarks.data.image_set import ImageSet, coco_ground_truth, read_coco
from export.errors import DataError

CLASSES = ("ant", "bee", "cat")
Box = tuple[float, float, float, float]


class Photo(NamedTuple):
    """What one picture shows."""

    width: int
    height: int
    objects: tuple[tuple[int, Box], ...]  # label, xyxy


@st.composite
def photos(draw: st.DrawFn) -> Photo:
    width, height = draw(st.integers(2, 60)), draw(st.integers(2, 60))
    objects: dict[tuple[int, Box], None] = {}
    for _ in range(draw(st.integers(0, 3))):
        x1 = draw(st.integers(0, width - 1))
        y1 = draw(st.integers(0, height - 1))
        x2 = draw(st.integers(x1 + 1, width))
        y2 = draw(st.integers(y1 + 1, height))
        objects[draw(st.integers(0, 2)), (x1, y1, x2, y2)] = None  # equal ones are dropped
    return Photo(width, height, tuple(objects))


# One picture at the start shows every class, since VOC knows only the classes that occur.
EVERY = Photo(9, 9, ((0, (0, 0, 9, 9)), (1, (1, 2, 3, 4)), (2, (0, 1, 2, 3))))
SETS = st.lists(photos(), max_size=3).map(lambda some: [EVERY, *some])


def _pictures(folder: Path, photos_of_set: list[Photo]) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"p{number}" for number in range(len(photos_of_set))]
    for name, photo in zip(names, photos_of_set, strict=True):
        Image.new("L", (photo.width, photo.height)).save(folder / f"{name}.png")
    return names


def _write_yolo(root: Path, some: list[Photo]) -> None:
    for name, photo in zip(_pictures(root, some), some, strict=True):
        lines = []
        for label, (x1, y1, x2, y2) in photo.objects:
            centre = (x1 + x2) / 2 / photo.width, (y1 + y2) / 2 / photo.height
            size = (x2 - x1) / photo.width, (y2 - y1) / photo.height
            lines.append(" ".join(map(repr, (label, *centre, *size))))
        (root / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
    (root / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")


def _write_voc(root: Path, some: list[Photo]) -> None:
    names = _pictures(root / "images", some)
    (root / "annotations").mkdir()
    for name, photo in zip(names, some, strict=True):
        objects = "".join(
            f"<object><name>{CLASSES[label]}</name><bndbox><xmin>{x1 + 1}</xmin>"
            f"<ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
            for label, (x1, y1, x2, y2) in photo.objects
        )
        text = f"<annotation>{objects}</annotation>"
        (root / "annotations" / f"{name}.xml").write_text(text, encoding="utf-8")


def _write_coco(root: Path, some: list[Photo]) -> None:
    names = _pictures(root / "images", some)
    objects = [
        {"id": 1, "image_id": number, "category_id": 10 * label, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number, photo in enumerate(some)
        for label, (x1, y1, x2, y2) in photo.objects
    ]
    document = {
        "images": [{"id": n, "file_name": f"{name}.png"} for n, name in enumerate(names)],
        "annotations": [{**entry, "id": n} for n, entry in enumerate(objects)],
        "categories": [{"id": 10 * n, "name": name} for n, name in enumerate(CLASSES)],
    }
    (root / "all.json").write_text(json.dumps(document), encoding="utf-8")


WRITERS = {"yolo": _write_yolo, "voc": _write_voc, "coco": _write_coco}


@pytest.mark.slow
@pytest.mark.parametrize("fmt", WRITERS)
@settings(max_examples=20)
@given(some=SETS)
def test_what_was_written_is_read_back(fmt: str, some: list[Photo]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        WRITERS[fmt](Path(folder), some)
        found_format = detect_format(Path(folder))
        assert found_format == fmt
        found = read_whole(Path(folder), found_format)
    assert found.classes == CLASSES
    assert not found.tally.dropped
    for image, photo in zip(found.images, some, strict=True):
        assert (image.width, image.height) == (photo.width, photo.height)
        assert image.labels.tolist() == [label for label, _ in photo.objects]
        expected = np.array([box for _, box in photo.objects]).reshape(-1, 4)
        assert np.abs(image.boxes - expected).max(initial=0) < 1e-9
        assert (
            np.abs(image.areas - np.prod(expected[:, 2:] - expected[:, :2], axis=1)).max(initial=0)
            < 1e-6
        )


@pytest.mark.slow
@settings(max_examples=25)
@given(some=SETS)
def test_a_set_written_as_coco_ground_truth_reads_as_the_same_set(some: list[Photo]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_voc(folder, some)
        first = read_whole(folder, "voc")
        file = folder / "truth.json"
        file.write_text(json.dumps(coco_ground_truth(first)), encoding="utf-8")
        second = read_coco(file)
    assert _content(second) == _content(first)


def _content(images: ImageSet) -> tuple[object, ...]:
    """Everything but where it came from."""
    return images.fingerprint, images.classes, images.category_ids, images.paths


NUMBER = st.floats(-30, 60, width=32, allow_subnormal=False) | st.integers(-30, 60).map(float)


@pytest.mark.slow
@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    boxes=st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), max_size=6),
)
def test_every_box_is_kept_inside_its_picture_or_counted(
    size: tuple[int, int], boxes: list[Box]
) -> None:
    notes = ReadingNotes()
    objects = [RawObject(box, number) for number, box in enumerate(boxes)]
    kept = clipped("p", *size, objects, notes)
    assert len(kept.boxes) + sum(notes.dropped().values()) == len(boxes)
    assert (kept.boxes[:, 2:] > kept.boxes[:, :2]).all()
    for label, box in zip(kept.labels.tolist(), kept.boxes, strict=True):
        inside = [min(max(v, 0), size[axis % 2]) for axis, v in enumerate(boxes[label])]
        assert box.tolist() == inside
    rows = enumerate(kept.boxes.tolist())
    again = [RawObject((b[0], b[1], b[2], b[3]), number) for number, b in rows]
    assert np.array_equal(clipped("p", *size, again, ReadingNotes()).boxes, kept.boxes)


CLASS = st.sampled_from(["0", "2", "3", "-1", "0.5", "nan", "cat"])
FRACTION = st.sampled_from(["0", "0.25", "0.5", "1.4", "-1"])
OTHER = st.sampled_from(["1.6", "9", "nan", "inf", "cat"])
NUMBERS = st.lists(FRACTION, min_size=4, max_size=4) | st.lists(FRACTION | OTHER, max_size=7)


@pytest.mark.slow
@settings(max_examples=40)
@given(words=st.builds(lambda label, numbers: [label, *numbers], CLASS, NUMBERS))
@example(words=["3", "0.5", "0.5", "0.25", "0.25"])
@example(words=["2", "0.5", "0.5", "9", "0.25"])
def test_a_label_line_is_refused_by_its_place_or_holds_a_class_and_fractions(
    words: list[str],
) -> None:
    said, labels, boxes = "", list[int](), np.zeros((0, 4))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _write_yolo(root, [EVERY])
        (root / "p0.txt").write_text(" ".join(words), encoding="utf-8")
        try:
            image = read_whole(root, "yolo").images[0]
            labels, boxes = image.labels.tolist(), image.boxes
        except DataError as error:
            said = str(error)
    fractions = words[0] in {"0", "2"} and set(words[1:]) <= {"0", "-1", "0.5", "0.25", "1.4"}
    corners = len(words) >= 7 and len(words) % 2 == 1
    if fractions and (len(words) == 5 or corners):
        assert not said
        assert set(labels) <= {0, 2}
        assert ((boxes >= 0) & (boxes <= 9)).all()
    else:
        assert "p0.txt:1: " in said
