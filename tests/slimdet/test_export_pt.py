"""`slimdet export-pt` writes what Ultralytics' package loads, with equal names and boxes."""

import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import pytest
import torch

from compress.parts.weights import read_tensors
from compress.stages.model_file import ModelMetadata, load_detector, save_model
from slimdet.__main__ import main
from tests.compress.foreign.saved import PACKAGE_SWITCHES
from tests.compress.stages.test_model_file import write_model

SIZE = (64, 96)
CLASSES = ["disk", "ring", "square"]

# Writes the boxes (xyxy, pixels), scores and labels that the package finds with each file.
LOADED = """
import sys, torch
from ultralytics import RTDETR, YOLO
pictures, *files = sys.argv[1:]
images = torch.load(pictures)
for file in files:
    model = (RTDETR if "rtdetr" in file else YOLO)(file)
    with torch.no_grad():
        found = model.model.eval()(images)
    found = found[0] if isinstance(found, tuple) else found
    if found.shape[-1] == 6:
        boxes, scores, labels = found[0].split((4, 1, 1), dim=1)
        boxes, scores, labels = boxes.clone(), scores[:, 0], labels[:, 0].long()
    else:
        rows = found[0].T
        count = rows.shape[1] - 4
        boxes = rows[:, :4].repeat_interleave(count, 0)
        scores, labels = rows[:, 4:].flatten(), torch.arange(count).repeat(len(rows))
    if "rtdetr" in file:
        height, width = images.shape[-2:]
        boxes *= torch.tensor([width, height, width, height])
    if found.shape[-1] != 6 or "rtdetr" in file:  # centre and size
        boxes = torch.cat((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2), 1)
    torch.save({"names": model.names, "task": model.task, "boxes": boxes, "scores": scores,
                "labels": labels}, file.replace(".pt", ".out"))
"""
MODELS = [("yolo", "yolov8n"), ("yolo", "yolo11n"), ("yolo", "yolo26n"), ("rtdetr", "rtdetr-l")]
IMAGES = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(0))


def write_ultralytics(folder: Path, family: str, model: str) -> Path:
    """Write a `model.safetensors` of a family of the package, with weights of no training."""
    other = load_detector(write_model(folder)).metadata
    content = json.loads(json.dumps(other.model_dump(mode="json", by_alias=True)))
    content["detector"] = {"type": family, "model": model}
    content["manifest"]["classes"] = CLASSES
    content["manifest"]["category_ids"] = [1, 2, 3]
    content["manifest"]["family"] = family
    content["manifest"]["input"] |= {"height": SIZE[0], "width": SIZE[1]}
    metadata = ModelMetadata.model_validate_json(json.dumps(content))
    torch.manual_seed(1)
    detector = metadata.build()
    with torch.no_grad():
        for name, tensor in detector.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                tensor.add_(torch.randn_like(tensor) / 10)
    save_model(detector.state_dict(), metadata, folder / f"{model}.safetensors")
    return folder / f"{model}.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of ours, those made of them, and what the package finds with each."""
    here, made = tmp_path_factory.mktemp("package"), []
    for family, model in MODELS:
        said, out = StringIO(), here / f"{model}.pt"
        with redirect_stdout(said):
            file = write_ultralytics(here, family, model)
            assert main(["export-pt", str(file), "--out", str(out)]) == 0
        assert f"{model} for 3 classes, written with ultralytics " in said.getvalue()
        made.append(str(out))
    torch.save(IMAGES, here / "pictures")
    subprocess.run(
        [sys.executable, "-c", LOADED, str(here / "pictures"), *made],
        check=True,
        cwd=here,
        env={**os.environ, **PACKAGE_SWITCHES, "YOLO_CONFIG_DIR": str(here)},
    )
    return here


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs the package ultralytics")
@pytest.mark.parametrize("model", [model for _, model in MODELS])
def test_the_package_finds_the_same_boxes_by_the_same_names(written: Path, model: str) -> None:
    theirs = torch.load(written / f"{model}.out")
    assert theirs["names"] == dict(enumerate(CLASSES))
    assert theirs["task"] == "detect"
    detector = load_detector(written / f"{model}.safetensors").detector
    with torch.no_grad():
        boxes, scores, labels = (found[0] for found in detector.candidates(IMAGES))
    limits = torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])
    best = theirs["scores"].argsort(descending=True)[:50]
    assert theirs["scores"][best[0]] > theirs["scores"][best[-1]]
    for place in best:  # both cut their lists, so those further down may be in one alone
        box = theirs["boxes"][place].clamp(min=0).minimum(limits)
        score, label = theirs["scores"][place], theirs["labels"][place]
        apart = (boxes - box).abs().amax(1) + (scores - score).abs() + (labels != label) * 1000
        assert apart.min() < 1e-3
    # and back: the file fills the detector that it was made of
    again = detector.renamed(read_tensors(written / f"{model}.pt", "student"))
    own = detector.state_dict()
    assert again.keys() == own.keys()
    assert all(torch.equal(again[name], own[name]) for name in own)


def test_a_detector_of_another_family_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_model(tmp_path)
    assert main(["export-pt", str(file), "--out", str(tmp_path / "best.pt")]) == 6
    assert "is a gfl, which Ultralytics' package does not have" in capsys.readouterr().err
    assert not (tmp_path / "best.pt").exists()


def test_a_file_that_is_there_or_has_another_ending_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, there = write_model(tmp_path), tmp_path / "best.pt"
    there.write_bytes(b"mine")
    assert main(["export-pt", str(file), "--out", str(there)]) == 6
    assert "is there already" in capsys.readouterr().err
    assert there.read_bytes() == b"mine"
    assert main(["export-pt", str(file), "--out", str(tmp_path / "best.onnx")]) == 6
    assert "end in .pt" in capsys.readouterr().err


def test_of_a_run_the_first_finished_student_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    for name in ("seed10-student", "seed2-student", "seed2-student-stage1", "teacher", "x"):
        (run / "models" / name).mkdir(parents=True)
        write_model(run / "models" / name)
    (run / "recipe.lock.json").write_text("{}")
    assert main(["export-pt", str(run), "--out", str(tmp_path / "best.pt")]) == 6
    assert "seed2-student/model.safetensors: is a gfl" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "recipe.lock.json").write_text("{}")
    assert main(["export-pt", str(tmp_path / "empty"), "--out", str(tmp_path / "b.pt")]) == 6
    assert "has no trained student yet" in capsys.readouterr().err
