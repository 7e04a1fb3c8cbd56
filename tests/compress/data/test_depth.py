from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.data.image_set import read_canvas
from compress.data.config import Data, FolderConfig
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, write_coco


def opened(root: Path, largest: dict[str, int], **settings: Any) -> Data:
    """Open a set whose splits hold two 16-bit pictures each, up to a largest value."""
    for split, start in (("train", 1), ("val", 101)):
        document = coco(2, start=start)
        write_coco(root, split, document)
        for image in document["images"] if split in largest else []:
            ramp = np.linspace(0, largest[split], 30 * 40).astype(np.uint16).reshape(30, 40)
            Image.fromarray(ramp).save(root / "images" / image["file_name"])
    return FolderConfig(root=root, image_size=64, **settings).open()


def test_all_splits_are_read_with_the_bits_that_hold_every_value(tmp_path: Path) -> None:
    data = opened(tmp_path, {"train": 900, "val": 4000})
    assert (data.train.bit_depth, data.val.bit_depth) == (12, 12)
    assert "up to 900, 2 of them with values of fewer bits" in data.train.notes[-1]
    assert "read as 12-bit, 0 to 4095; set data.bit_depth" in data.val.notes[-1]
    assert read_canvas(data.train, 0, 64, 64)[0][:48].max() == 900 >> 4
    assert read_canvas(data.val, 0, 64, 64)[0][:48].max() == 4000 >> 4


def test_a_stated_depth_is_taken_and_what_exceeds_it_is_refused(tmp_path: Path) -> None:
    data = opened(tmp_path, {"train": 900, "val": 1000}, bit_depth=10)
    assert data.val.bit_depth == 10
    assert "as data.bit_depth says" in data.train.notes[-1]
    said = r"101\.png: holds values up to 4000, and data\.bit_depth says 10.*bit_depth: 12"
    with pytest.raises(DataError, match=said):
        opened(tmp_path, {"train": 900, "val": 4000}, bit_depth=10)


def test_pictures_of_8_bits_state_no_depth(tmp_path: Path) -> None:
    data = opened(tmp_path, {})
    assert data.train.bit_depth is None
    assert data.train.notes == ()
