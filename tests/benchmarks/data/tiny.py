"""Tiny data sets in every format, written into a folder."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(path: Path, width: int = 40, height: int = 30, shade: int = 90) -> Path:
    """Write an RGB picture whose left half is dark and whose right half is `shade`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[:, width // 2 :] = shade
    Image.fromarray(pixels).save(path)
    return path


def coco(count: int = 2, ids: tuple[int, ...] = (7, 3), start: int = 1) -> dict[str, Any]:
    """A COCO document of 40 x 30 pictures, each with one box of 10 x 8 at (4, 5)."""
    return {
        "images": [
            {"id": start + i, "file_name": f"{start + i}.png", "width": 40, "height": 30}
            for i in range(count)
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": start + i,
                "category_id": ids[i % len(ids)],
                "bbox": [4.0, 5.0, 10.0, 8.0],
            }
            for i in range(count)
        ],
        "categories": [{"id": i, "name": f"class{i}"} for i in ids],
    }


def write_coco(root: Path, split: str, document: dict[str, Any], shade: int = 90) -> Path:
    """Write `<split>.json` and the pictures under `images/`."""
    for number, entry in enumerate(document["images"]):
        if isinstance(entry, dict) and "file_name" in entry:
            picture(root / "images" / entry["file_name"], shade=shade + number)
    path = root / f"{split}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def write_coco_root(root: Path, train: int = 4, val: int = 2) -> Path:
    """A whole data set with splits that share no picture."""
    write_coco(root, "train", coco(train), shade=90)
    write_coco(root, "val", coco(val, start=101), shade=190)
    return root


def write_yolo(root: Path, labels: dict[str, str], extra: str = "") -> Path:
    """Write data.yaml and, for `train/a` -> text, a 40 x 30 picture with that label file."""
    for number, (name, text) in enumerate(labels.items()):
        picture(root / "images" / f"{name}.png", shade=60 + number)
        label = root / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text, encoding="utf-8")
    description = root / "data.yaml"
    keys = "train: images/train\nval: images/val\n" if "train:" not in extra else ""
    names = "names: [cat, dog]\n" if "names" not in extra else ""
    description.write_text(keys + names + extra, encoding="utf-8")
    return description


def voc_xml(objects: Sequence[tuple[str, tuple[float | str, ...], int]]) -> str:
    """An annotation of a 40 x 30 picture; objects are (name, corners, difficult)."""
    body = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax>"
        "</bndbox></object>"
        for name, b, difficult in objects
    )
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    return f"<annotation>{size}{body}</annotation>"
