"""Good data sets in every format, of which the truth is known, to be changed afterwards."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("ant", "bee", "cat")
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Photo:
    """One picture: its name without ending, its size, and (label, xyxy) of its objects."""

    stem: str
    width: int
    height: int
    objects: tuple[tuple[int, Box], ...]


@dataclass(frozen=True)
class GoodSet:
    """A data set on the disk.

    Attributes:
        format: how it is written.
        root: its folder.
        photos: split (train or val) -> what its pictures show.
    """

    format: str
    root: Path
    photos: dict[str, tuple[Photo, ...]]

    def texts(self) -> list[Path]:
        """Return the annotation and description files."""
        kinds = {".json", ".yaml", ".txt", ".xml"}
        return sorted(path for path in self.root.rglob("*") if path.suffix in kinds)

    def pictures(self, split: str = "") -> list[Path]:
        """Return the picture files, of one split or of all."""
        stems = {p.stem for name, own in self.photos.items() if split in {"", name} for p in own}
        return sorted(path for path in self.root.rglob("*.png") if path.stem in stems)

    def documents(self) -> list[Path]:
        """Return the COCO files."""
        return sorted(self.root.rglob("*.json"))

    def labels(self) -> list[Path]:
        """Return the files that hold the objects of one picture each."""
        stems = {photo.stem for own in self.photos.values() for photo in own}
        return [path for path in self.texts() if path.stem in stems]


def draw_photos(rng: np.random.Generator, split: str, count: int) -> tuple[Photo, ...]:
    """Draw pictures; the first shows every class, and each but the last has an object."""
    photos = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(20, 61, 2))
        objects: dict[tuple[int, Box], None] = {}
        labels = range(3) if number == 0 else rng.integers(0, 3, 2 if number < count - 1 else 0)
        for label in labels:
            x1, y1 = (int(v) for v in rng.integers(0, (width - 8, height - 8)))
            x2, y2 = (int(v) for v in rng.integers((x1 + 4, y1 + 4), (width + 1, height + 1)))
            objects[int(label), (x1, y1, x2, y2)] = None
        photos.append(Photo(f"{split}ü {number}", width, height, tuple(objects)))
    return tuple(photos)


def write_set(fmt: str, root: Path, seed: int) -> GoodSet:
    """Write one data set; `unlabeled` is COCO with a folder of pictures without labels."""
    rng = np.random.default_rng(seed)
    photos = {"train": draw_photos(rng, "train", 6), "val": draw_photos(rng, "val", 4)}
    root.mkdir(parents=True)
    for split, own in photos.items():
        WRITERS[fmt](root, split, own)
    if fmt == "unlabeled":
        for photo in draw_photos(rng, "other", 5):
            _picture(root / "unlabeled", photo)
    return GoodSet(fmt, root, photos)


def _picture(folder: Path, photo: Photo) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seed = sum(map(ord, photo.stem)) + photo.width * 97 + photo.height
    values = np.random.default_rng(seed).integers(0, 256, (photo.height, photo.width, 3), np.uint8)
    Image.fromarray(values).save(folder / f"{photo.stem}.png")


def _document(photos: tuple[Photo, ...]) -> dict[str, Any]:
    objects = [
        {"image_id": n, "category_id": label + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for n, photo in enumerate(photos, 1)
        for label, (x1, y1, x2, y2) in photo.objects
    ]
    return {
        "info": {"description": "drawn"},
        "images": [
            {"id": n, "file_name": f"{p.stem}.png", "width": p.width, "height": p.height}
            for n, p in enumerate(photos, 1)
        ],
        "annotations": [{"id": n, **entry, "iscrowd": 0} for n, entry in enumerate(objects, 1)],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
    }


def _write_coco(root: Path, split: str, photos: tuple[Photo, ...]) -> None:
    for photo in photos:
        _picture(root / "images", photo)
    (root / f"{split}.json").write_text(json.dumps(_document(photos)), encoding="utf-8")


def _write_roboflow(root: Path, split: str, photos: tuple[Photo, ...]) -> None:
    folder = root / {"val": "valid"}.get(split, split)
    for photo in photos:
        _picture(folder, photo)
    document = _document(photos)
    document["categories"].insert(0, {"id": 0, "name": "insects", "supercategory": "none"})
    for entry in document["categories"][1:]:
        entry["supercategory"] = "insects"
    file = folder / "_annotations.coco.json"
    file.write_text(json.dumps(document), encoding="utf-8")


def _write_yolo(root: Path, split: str, photos: tuple[Photo, ...]) -> None:
    (root / "labels" / split).mkdir(parents=True)
    for photo in photos:
        _picture(root / "images" / split, photo)
        lines = []
        for label, (x1, y1, x2, y2) in photo.objects:
            middle = (x1 + x2) / 2 / photo.width, (y1 + y2) / 2 / photo.height
            size = (x2 - x1) / photo.width, (y2 - y1) / photo.height
            lines.append(" ".join(map(repr, (label, *middle, *size))) + "\n")
        file = root / "labels" / split / f"{photo.stem}.txt"
        file.write_text("".join(lines), encoding="utf-8")
    text = f"train: images/train\nval: images/val\nnc: 3\nnames: [{', '.join(CLASSES)}]\n"
    (root / "data.yaml").write_text(text, encoding="utf-8")


def _xml(photo: Photo) -> str:
    objects = "".join(
        f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox>"
        f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>\n"
        for label, (x1, y1, x2, y2) in photo.objects
    )
    size = f"<width>{photo.width}</width><height>{photo.height}</height><depth>3</depth>"
    return f"<annotation>\n<size>{size}</size>\n{objects}</annotation>\n"


def _write_voc(root: Path, split: str, photos: tuple[Photo, ...]) -> None:
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for photo in photos:
        _picture(root / "JPEGImages", photo)
        file = root / "Annotations" / f"{photo.stem}.xml"
        file.write_text(_xml(photo), encoding="utf-8")
    names = "".join(f"{photo.stem}\n" for photo in photos)
    (root / "ImageSets" / "Main" / f"{split}.txt").write_text(names, encoding="utf-8")


def _write_labelimg(root: Path, split: str, photos: tuple[Photo, ...]) -> None:
    for photo in photos:
        _picture(root / split, photo)
        (root / split / f"{photo.stem}.xml").write_text(_xml(photo), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, str, tuple[Photo, ...]], None]] = {
    "coco": _write_coco,
    "yolo": _write_yolo,
    "voc": _write_voc,
    "labelimg": _write_labelimg,
    "roboflow": _write_roboflow,
    "unlabeled": _write_coco,
}
