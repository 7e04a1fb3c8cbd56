"""A best.pt of Ultralytics' trainers is opened, run and built as a trained model of ours is."""

from importlib.util import find_spec

import pytest
import torch

import slimdet
from compress.stages.model_file import input_side, read_model_metadata
from slimdet.__main__ import main
from tests.slimdet.test_export_pt import CLASSES, write_ultralytics

NEEDS = pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs the package ultralytics")


@pytest.mark.parametrize(
    ("trained", "side"),
    [(640, 640), ([96, 128], 128), (100, 128), (None, 640), (True, 640), ("640", 640), (1e9, 640)],
)
def test_the_input_is_the_square_of_the_training(trained, side):
    assert input_side(trained) == side


@pytest.mark.slow
@NEEDS
@pytest.mark.parametrize(
    ("family", "model", "mode"), [("yolo", "yolo11n", "host"), ("yolo", "yolo26n", "none")]
)
def test_a_best_pt_gives_the_boxes_of_the_file_it_was_made_from(tmp_path, family, model, mode):
    source = write_ultralytics(tmp_path, family, model)
    assert main(["export-pt", str(source), "--out", str(tmp_path / "best.pt")]) == 0
    known = read_model_metadata(tmp_path / "best.pt")
    assert known.manifest.nms.mode == mode
    assert known.classes == tuple(CLASSES)
    assert "AGPL-3.0" in known.manifest.made_by["ultralytics"]
    picture = (torch.rand(96, 96, 3, generator=torch.Generator().manual_seed(0)) * 255).byte()
    with slimdet.load(tmp_path / "best.pt") as opened:
        found = opened.predict(picture.numpy(), threshold=0.0)[0]
    assert len(found.boxes) > 0
    onnx = str(tmp_path / "onnx")
    assert main(["build", str(tmp_path / "best.pt"), "--precision", "fp32", "--out", onnx]) == 0
    with slimdet.load(tmp_path / "onnx") as built:
        again = built.predict(picture.numpy(), threshold=0.0)[0]
    # further down, boxes of nearly equal overlap may be dropped by one and kept by the other
    assert again.scores[:10] == pytest.approx(found.scores[:10], abs=1e-4)
    assert again.boxes[:3] == pytest.approx(found.boxes[:3], abs=0.01)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut"])
def test_another_file_is_refused_in_one_line(tmp_path, capsys, content):
    file = tmp_path / "best.pt"
    file.write_bytes(content)
    assert main(["build", str(file), "--precision", "fp32", "--out", str(tmp_path / "out")]) == 6
    said = capsys.readouterr()
    assert str(file) in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
