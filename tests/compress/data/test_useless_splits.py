"""Splits that nothing can be learnt from, or measured on, are refused when the data is opened."""

import json
from pathlib import Path
from typing import Any

import pytest

from compress.data.config import Data, FolderConfig
from export.errors import DataError
from tests.benchmarks.data.tiny import write_coco_root


def opened(root: Path, **settings: Any) -> Data:
    return FolderConfig.model_validate({"root": root, "image_size": 64, **settings}).open()


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_whose_boxes_are_all_too_small_is_refused(tmp_path: Path, split: str) -> None:
    root = write_coco_root(tmp_path)
    document = json.loads((root / f"{split}.json").read_text(encoding="utf-8"))
    for entry in document["annotations"]:
        entry["bbox"] = [0.1, 0.2, 0.25, 0.5]  # fractions of the sides
    (root / f"{split}.json").write_text(json.dumps(document), encoding="utf-8")
    count = len(document["annotations"])
    with pytest.raises(
        DataError, match=rf"data\.{split}: all {count} boxes are .* 0\.4 px"
    ) as caught:
        opened(root=root)
    if split == "train":
        assert "augment.min_box_px (2 px)" in str(caught.value)
        assert "all 4 boxes lie within the first pixel; they look like fractions" in str(
            caught.value
        )


def test_a_limit_that_leaves_only_boxes_that_are_too_small_is_refused(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path)
    document = json.loads((root / "train.json").read_text(encoding="utf-8"))
    chosen = opened(root=root, train={"limit": 1}).train.images[0].id
    for entry in document["annotations"]:
        if entry["image_id"] == chosen:
            entry["bbox"] = [4, 5, 1, 8]
    (root / "train.json").write_text(json.dumps(document), encoding="utf-8")
    assert len(opened(root=root).train) == 4  # boxes are left to learn from
    with pytest.raises(
        DataError, match=r"the only box is left out of training.* 1\.6 px at 64 x 64"
    ):
        opened(root=root, train={"limit": 1})
    assert opened(root=root, train={"limit": 1}, augment={"min_box_px": 1.0}).num_classes == 2


def test_boxes_that_training_enlarges_beyond_the_smallest_are_no_reason_to_refuse(
    tmp_path: Path,
) -> None:
    root = write_coco_root(tmp_path)
    for larger in ({"scale": (0.5, 1.5)}, {"mosaic": 0.5}):
        assert opened(root=root, augment={"min_box_px": 15, **larger}).num_classes == 2
    with pytest.raises(DataError, match="all 4 boxes are left out of training"):
        opened(root=root, augment={"min_box_px": 15})


def test_what_was_left_out_is_said_where_no_box_is_left(tmp_path: Path) -> None:
    root = write_coco_root(tmp_path)
    document = json.loads((root / "train.json").read_text(encoding="utf-8"))
    for entry in document["annotations"]:
        entry["bbox"] = [4, 5, 0, 8]
    (root / "train.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(DataError, match=r"no boxes in .*4 objects written, 0 kept, 4 left out"):
        opened(root=root)
    with pytest.raises(DataError, match=r"data\.classes: names no class"):
        opened(root=root, classes=())
