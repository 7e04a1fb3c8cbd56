"""Pictures of bright boxes in a folder, for the tests that run a whole command."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.data.image_set import coco_ground_truth
from tests.benchmarks.bright_boxes import Clock, bright_set


@pytest.fixture
def data(tmp_path: Path) -> Path:
    images = bright_set(2)
    truth = coco_ground_truth(images)
    assert images.draw is not None
    folder = tmp_path / "data" / "images"
    folder.mkdir(parents=True)
    for index, entry in enumerate(truth["images"]):
        entry["file_name"] = f"{index}.png"
        Image.fromarray(images.draw(index)).save(folder / entry["file_name"])
    path = tmp_path / "data" / "val.json"
    path.write_text(json.dumps(truth))
    return path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which blocks of calls are timed."""
    made = Clock()
    monkeypatch.setattr("time.perf_counter_ns", made.read)
    return made
