"""Photographs that EXIF turns, with boxes of the stored or of the upright picture."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.evaluate import predict as evaluate
from benchmarks.data.folder import read_split, read_whole
from benchmarks.data.image_set import (
    ImageSet,
    coco_ground_truth,
    read_canvas,
    read_coco,
    read_photograph,
)
from compress.data.canvases import CanvasCache
from export.predictions import predict
from tests.benchmarks.bright_boxes import BrightEngine, bright_manifest

Box = tuple[int, int, int, int]
ONE, TWO = "1 photograph is stored turned", "2 photographs are stored turned"
TURNED = {1: f"{ONE}; the boxes are turned upright", 2: f"{TWO}; the boxes are turned upright"}
UNKNOWN = {1: f"{ONE}, and nothing states whether", 2: f"{TWO}, and nothing states whether"}


def store(path: Path, orientation: int, width: int, height: int, box: Box) -> None:
    """Store a black picture of this size, red inside of `box`, that EXIF says to turn."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif)


def entry(number: int, name: str, size: tuple[int, int] | None) -> dict[str, Any]:
    stated = {} if size is None else {"width": size[0], "height": size[1]}
    return {"id": number, "file_name": name, **stated}


def write(root: Path, images: Sequence[dict[str, Any]], boxes: Sequence[Box]) -> ImageSet:
    """Write COCO annotations with a box for each picture, and read them."""
    objects = [
        {"id": n, "image_id": n, "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n, (x1, y1, x2, y2) in enumerate(boxes, 1)
    ]
    document = {
        "images": images,
        "annotations": objects,
        "categories": [{"id": 1, "name": "red"}],
    }
    (root / "val.json").write_text(json.dumps(document))
    return read_coco(root / "val.json")


def red(pixels: np.ndarray) -> list[float]:
    """Return xyxy of what is red."""
    rows, columns = np.where(pixels[..., 0] > 128)
    return [columns.min(), rows.min(), columns.max() + 1.0, rows.max() + 1.0]


@st.composite
def pictures(draw: st.DrawFn) -> tuple[int, int, int, Box]:
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    x1, y1 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    box = (x1, y1, draw(st.integers(x1 + 1, width)), draw(st.integers(y1 + 1, height)))
    return draw(st.integers(1, 8)), width, height, box


@pytest.mark.slow
@settings(max_examples=30)
@given(picture=pictures())
def test_a_box_turned_with_its_picture_covers_the_same_pixels(
    picture: tuple[int, int, int, Box],
) -> None:
    orientation, width, height, box = picture
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        store(root / "lying.png", 6, 8, 4, (1, 1, 3, 2))  # shows that boxes are of stored pictures
        store(root / "p.png", orientation, width, height, box)
        stated = [entry(1, "lying.png", (8, 4)), entry(2, "p.png", (width, height))]
        images = write(root, stated, [(1, 1, 3, 2), box])
        for index, one in enumerate(images.images):
            pixels = read_photograph(images, index)
            assert pixels.shape[:2] == (one.height, one.width)
            assert one.boxes.tolist() == [red(pixels)]
    assert images.images[1].areas.tolist() == [(box[2] - box[0]) * (box[3] - box[1])]
    count = 1 + (orientation != 1)
    assert any(note.startswith(TURNED[count]) for note in images.notes)
    assert images.warnings == ()


BOX = (10, 4, 40, 20)
STORED, UPRIGHT = (64, 48), (48, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("drawn", ["stored", "upright"])
def test_evaluation_training_and_prediction_see_one_picture_and_its_boxes(
    tmp_path: Path, orientation: int, drawn: str
) -> None:
    store(tmp_path / "p.png", orientation, *STORED, BOX)
    store(tmp_path / "other.png", 8, *STORED, BOX)  # a picture whose size tells
    frames = [STORED, STORED] if drawn == "stored" else [UPRIGHT, UPRIGHT]
    if orientation < 5:
        frames[0] = STORED
    boxes: list[Box] = [BOX, BOX]
    if drawn == "upright":
        boxes = []
        for name in ("p.png", "other.png"):
            with Image.open(tmp_path / name) as image:
                x1, y1, x2, y2 = red(np.asarray(ImageOps.exif_transpose(image)))
            boxes.append((int(x1), int(y1), int(x2), int(y2)))
    images = write(
        tmp_path, [entry(1, "p.png", frames[0]), entry(2, "other.png", frames[1])], boxes
    )
    truth = coco_ground_truth(images)
    engine = BrightEngine(bright_manifest(classes=("red",)))
    assert coco_map(evaluate(engine, images), truth).values["AP"] == pytest.approx(1)
    found = predict(engine, tmp_path / "p.png", 0.5)
    assert found.boxes[0].tolist() == pytest.approx(images.images[0].boxes[0].tolist(), abs=1.5)
    for fast in (False, True):
        sample = CanvasCache(images, 64, 64, 1 << 20, fill=0, fast_decode=fast).sample(0)
        assert sample.boxes[0].tolist() == pytest.approx(red(sample.pixels), abs=1)
    canvas, place = read_canvas(images, 0, 64, 64, 0)
    assert place.to_input(images.images[0].boxes)[0].tolist() == pytest.approx(red(canvas), abs=1)


def test_boxes_of_the_upright_picture_stay_as_they_are_without_a_word(tmp_path: Path) -> None:
    store(tmp_path / "p.png", 6, *STORED, BOX)
    store(tmp_path / "flipped.png", 3, *STORED, BOX)  # whose size tells nothing; the other does
    images = write(
        tmp_path, [entry(1, "p.png", UPRIGHT), entry(2, "flipped.png", STORED)], [BOX, BOX]
    )
    assert [one.boxes.tolist() for one in images.images] == [[list(BOX)], [list(BOX)]]
    assert (images.notes, images.warnings) == ((), ())


def test_a_turn_that_no_size_shows_is_counted_and_warned_of(tmp_path: Path) -> None:
    store(tmp_path / "square.png", 6, 64, 64, BOX)
    store(tmp_path / "flipped.png", 3, *STORED, BOX)
    store(tmp_path / "plain.png", 1, 64, 64, BOX)
    names = [("square.png", (64, 64)), ("flipped.png", STORED), ("plain.png", (64, 64))]
    images = write(tmp_path, [entry(n, *one) for n, one in enumerate(names, 1)], [BOX] * 3)
    assert [one.boxes.tolist() for one in images.images] == [[list(BOX)]] * 3
    assert UNKNOWN[2] in images.notes[0]
    assert "square.png, flipped.png" in images.notes[0]
    assert UNKNOWN[2] in images.warnings[0]
    assert "set the EXIF orientation of these files to 1" in images.warnings[0]


def test_pictures_that_contradict_each_other_decide_for_themselves_alone(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        store(tmp_path / name, 6, *STORED, BOX)
    store(tmp_path / "square.png", 6, 64, 64, BOX)
    names = [("a.png", STORED), ("b.png", UPRIGHT), ("square.png", (64, 64))]
    images = write(tmp_path, [entry(n, *one) for n, one in enumerate(names, 1)], [BOX] * 3)
    assert [one.boxes[0].tolist() for one in images.images] == [
        [48 - 20, 10, 48 - 4, 40],
        list(BOX),
        list(BOX),
    ]
    assert [note[0] for note in images.notes] == ["1", "1"]
    assert len(images.warnings) == 1


def test_a_size_that_is_not_stated_follows_the_pictures_with_one(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        store(tmp_path / name, 6, *STORED, BOX)
    images = write(tmp_path, [entry(1, "a.png", STORED), entry(2, "b.png", None)], [BOX, BOX])
    assert images.images[1].boxes.tolist() == images.images[0].boxes.tolist()
    assert (images.images[1].width, images.images[1].height) == UPRIGHT
    alone = write(tmp_path, [entry(1, "b.png", None)], [BOX])
    assert alone.images[0].boxes.tolist() == [list(BOX)]
    assert len(alone.warnings) == 1


def test_a_picture_without_boxes_is_not_counted(tmp_path: Path) -> None:
    store(tmp_path / "a.png", 6, *STORED, BOX)
    store(tmp_path / "b.png", 1, *STORED, BOX)
    images = write(tmp_path, [entry(2, "a.png", STORED), entry(1, "b.png", STORED)], [BOX])
    assert (images.images[0].width, images.images[0].height) == UPRIGHT
    assert images.notes == ()


def test_an_xml_file_states_the_frame_of_its_boxes(tmp_path: Path) -> None:
    for name, size in {"stored": STORED, "upright": UPRIGHT}.items():
        store(tmp_path / name / "p.png", 6, *STORED, BOX)
        (tmp_path / name / "p.xml").write_text(
            f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size><object>"
            "<name>red</name><bndbox><xmin>11</xmin><ymin>5</ymin><xmax>40</xmax><ymax>20</ymax>"
            "</bndbox></object></annotation>"
        )
    turned, plain = (read_whole(tmp_path / name, "voc") for name in ("stored", "upright"))
    assert turned.images[0].boxes.tolist() == [red(read_photograph(turned, 0))]
    assert turned.notes[0].startswith(TURNED[1])
    assert plain.images[0].boxes.tolist() == [list(BOX)]
    assert plain.notes == ()


def test_yolo_boxes_are_fractions_of_the_upright_picture(tmp_path: Path) -> None:
    """As Ultralytics has it, which swaps width and height by EXIF."""
    store(tmp_path / "images/val/p.png", 6, *STORED, BOX)
    store(tmp_path / "images/val/q.png", 1, *STORED, BOX)
    seen = (28 / 48, 10 / 64, 44 / 48, 40 / 64)  # the box in the upright picture
    for name, edges in {"p": seen, "q": (10 / 64, 4 / 48, 40 / 64, 20 / 48)}.items():
        x1, y1, x2, y2 = edges
        label = tmp_path / f"labels/val/{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"0 {(x1 + x2) / 2} {(y1 + y2) / 2} {x2 - x1} {y2 - y1}")
    (tmp_path / "data.yaml").write_text("val: images/val\nnames: [red]\n")
    images = read_split(tmp_path, "val", "yolo")
    for index, one in enumerate(images.images):
        assert one.boxes[0].tolist() == pytest.approx(red(read_photograph(images, index)))
    assert images.notes[0].startswith(UNKNOWN[1])
    assert len(images.warnings) == 1
