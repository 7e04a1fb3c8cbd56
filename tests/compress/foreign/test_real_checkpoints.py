"""Checkpoints that the installed package itself wrote are read to the last bit."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from compress.detectors.yolo import YoloConfig
from compress.foreign.ultralytics_checkpoint import read_checkpoint
from compress.parts.weights import check_weights, load_weights, read_tensors, save_weights
from export.errors import RecipeError
from tests.compress.foreign.saved import PACKAGE_SWITCHES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs the package ultralytics"),
]

WRITE = """
import copy, torch
from types import SimpleNamespace
from ultralytics import RTDETR, YOLO
from ultralytics.nn.distill_model import DistillationModel

yolo = YOLO("yolo11n.yaml")
yolo.model.names = {label: f"class {label}" for label in range(80)}
yolo.save("saved.pt")
torch.save(yolo.model.half().float().state_dict(), "yolo11n.state")
content = {
    "epoch": 1, "best_fitness": 0.1, "model": None, "updates": 7,
    "ema": copy.deepcopy(yolo.model).half(), "scaler": {},
    "optimizer": torch.optim.AdamW(yolo.model.parameters()).state_dict(),
    "train_args": dict(yolo.model.args),
    "train_metrics": {"fitness": 0.1}, "train_results": {"epoch": [1]},
    "date": "2026-01-01T00:00:00", "version": "8.4.190",
}
torch.save(content, "trainer.pt")
torch.save(content, "legacy.pt", _use_new_zipfile_serialization=False)
inner = YOLO("yolo11n.yaml").model
inner.names, inner.args = yolo.model.names, SimpleNamespace(imgsz=64, dis=6.0)
outer = DistillationModel(YOLO("yolo11s.yaml").model, inner)
inner.load_state_dict(yolo.model.state_dict())
torch.save({**content, "ema": outer.half()}, "distilled.pt")
RTDETR("rtdetr-l.yaml").save("rtdetr.pt")
for name, model in (("segment", "yolo11n-seg"), ("pose", "yolo11n-pose"), ("obb", "yolo11n-obb"),
                    ("classify", "yolo11n-cls")):
    YOLO(f"{model}.yaml").save(f"{name}.pt")
yolo.fuse()
yolo.save("fused.pt")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files that the package wrote, in a process of its own."""
    here = tmp_path_factory.mktemp("package")
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WRITE],
        check=True,
        cwd=here,
        env={**os.environ, **PACKAGE_SWITCHES, "YOLO_CONFIG_DIR": str(here)},
    )
    return here


@pytest.mark.parametrize("name", ["saved", "trainer", "legacy", "distilled"])
def test_every_tensor_of_a_yolo_is_read_whoever_saved_it(folder: Path, name: str) -> None:
    found = read_checkpoint(folder / f"{name}.pt")
    assert found is not None
    expected = torch.load(folder / "yolo11n.state")
    assert list(found.tensors) == list(expected)
    assert all(torch.equal(found.tensors[key], expected[key]) for key in expected)
    assert (found.family, found.model, len(found.classes)) == ("yolo", "yolo11n", 80)
    assert found.version.startswith("8.")


@pytest.mark.parametrize("name", ["trainer", "legacy", "state"])
def test_a_yolo_of_ours_takes_the_tensors_by_our_names(folder: Path, name: str) -> None:
    expected = torch.load(folder / "yolo11n.state")
    file = folder / f"{name}.pt"
    if name == "state":  # names alone, as of a state_dict that somebody saved
        file = folder / "state.safetensors"
        save_weights(expected, file)
    detector = YoloConfig.model_validate({"type": "yolo", "model": "yolo11n"}).build(80, (64, 64))
    check_weights(detector, file, strict=True, what="yolo weights")
    assert load_weights(detector, file, strict=True, what="yolo weights").complete
    own = detector.state_dict()
    assert torch.equal(own["backbone.layers.0.conv.weight"], expected["model.0.conv.weight"])
    assert torch.equal(own["head.cv3.2.2.bias"], expected["model.23.cv3.2.2.bias"])


def test_tensors_of_another_size_are_refused_with_what_the_file_holds(folder: Path) -> None:
    detector = YoloConfig.model_validate({"type": "yolo", "model": "yolo11s"}).build(80, (64, 64))
    with pytest.raises(RecipeError, match=r"mismatched.*holds yolo11n for 80 classes \(class 0"):
        check_weights(detector, folder / "trainer.pt", strict=True, what="yolo weights")


def test_an_rtdetr_is_read(folder: Path) -> None:
    found = read_checkpoint(folder / "rtdetr.pt", shapes=True)
    assert found is not None
    assert (found.family, found.model, len(found.tensors)) == ("rtdetr", "rtdetr-l", 941)


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_another_task_is_refused(folder: Path, task: str) -> None:
    with pytest.raises(RecipeError, match=f"for the task {task}; expected a detector"):
        read_tensors(folder / f"{task}.pt", "teacher")


def test_a_fused_model_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="is fused"):
        read_tensors(folder / "fused.pt", "teacher")
