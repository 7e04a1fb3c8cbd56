"""Checkpoints of Ultralytics' trainers are read without the package, and without running them."""

import copy
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.foreign.ultralytics_checkpoint import read_checkpoint
from compress.parts.weights import read_tensors
from export.errors import DataError, RecipeError
from tests.compress.foreign.saved import (
    NAMES,
    checkpoint,
    class_of,
    network,
    save,
)


def read(path: Path, **options: Any) -> Any:
    found = read_checkpoint(path, **options)
    assert found is not None
    return found


@pytest.mark.parametrize("legacy", [False, True])
def test_a_trainer_s_checkpoint_gives_the_averaged_model_in_fp32(
    tmp_path: Path, legacy: bool
) -> None:
    model, classes = network()
    model.half()
    file = save(tmp_path / "best.pt", checkpoint(model), classes, legacy=legacy)
    found = read(file)
    expected = model.float().state_dict()
    assert list(found.tensors) == list(expected)
    assert "model.1.cached" not in found.tensors  # a buffer that is not persistent
    for name, tensor in expected.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert found.tensors["model.0.bn.num_batches_tracked"].dtype == torch.int64
    assert (found.family, found.model, found.classes) == ("yolo", "yolo11n", ("red", "white"))
    assert (found.version, found.date) == ("8.4.190", "2026-11-01T10:00:00+00:00")
    assert found.train_args == {"task": "detect", "imgsz": 640}
    shapes = read(file, shapes=True).tensors
    assert {name: (t.shape, t.dtype) for name, t in shapes.items()} == {
        name: (t.shape, t.dtype) for name, t in expected.items()
    }
    assert all(tensor.is_meta for tensor in shapes.values())


def test_the_averaged_model_goes_before_the_last_one(tmp_path: Path) -> None:
    last, classes = network()
    averaged = copy.deepcopy(last)
    with torch.no_grad():
        averaged.model[0].conv.weight.add_(1)
    for content, expected in (
        ({"model": last, "ema": averaged}, averaged),
        ({"model": last, "ema": None}, last),
        ({"model": last}, last),
    ):
        found = read(save(tmp_path / "a.pt", content, classes)).tensors
        assert torch.equal(found["model.0.conv.weight"], expected.model[0].conv.weight)


def test_of_a_distillation_s_checkpoint_the_student_is_read(tmp_path: Path) -> None:
    model, classes = network()
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        teacher.model[0].conv.weight.add_(1)
    around = class_of("ultralytics.nn.distill_model.DistillationModel")
    outer: Any = around()
    outer.teacher_model, outer.student_model = teacher, model
    outer.projector = nn.ModuleList([nn.Conv2d(4, 4, 1)])
    file = save(tmp_path / "best.pt", checkpoint(outer), (*classes, around))
    found = read(file).tensors
    assert list(found) == list(model.state_dict())
    assert torch.equal(found["model.0.conv.weight"], model.model[0].conv.weight)


def test_a_module_saved_without_a_checkpoint_around_it_is_read(tmp_path: Path) -> None:
    model, classes = network()
    assert list(read(save(tmp_path / "m.pt", model, classes)).tensors) == list(model.state_dict())


def test_tensors_of_odd_strides_and_of_a_shared_block_come_back(tmp_path: Path) -> None:
    model, classes = network()
    block = torch.arange(4 * 8 * 3, dtype=torch.float32)
    model.model[1].cv2[0].weight = nn.Parameter(block[5:37].view(4, 8).t()[:, :, None, None])
    model.model[1].cv2[0].bias = nn.Parameter(block[40:72:4])
    found = read(save(tmp_path / "m.pt", model, classes)).tensors
    assert torch.equal(found["model.1.cv2.0.weight"][:, :, 0, 0], block[5:37].view(4, 8).t())
    assert torch.equal(found["model.1.cv2.0.bias"], block[40:72:4])


@pytest.mark.parametrize(
    ("yaml", "name"),
    [
        ({"yaml_file": "yolo11.yaml", "scale": "s"}, "yolo11s"),
        ({"yaml_file": "yolo26m.yaml", "scale": "m"}, "yolo26m"),
        ({"yaml_file": "C:\\models\\yolov8x.yaml", "scale": "x"}, "yolov8x"),
        ({"yaml_file": "yolov8-p2.yaml", "scale": "n"}, "yolov8n-p2"),
        ({"yaml_file": "yolo11.yaml", "scale": "", "scales": {"n": [1]}}, "yolo11n"),
        ({"yaml_file": "rtdetr-l.yaml", "scale": ""}, "rtdetr-l"),
        ({"yaml_file": "mine.yaml", "scale": ""}, ""),
        ({}, ""),
    ],
)
def test_the_network_is_named_by_the_description_that_it_was_built_from(
    tmp_path: Path, yaml: dict[str, object], name: str
) -> None:
    model, classes = network()
    model.yaml = yaml
    assert read(save(tmp_path / "m.pt", model, classes)).model == name


@pytest.mark.parametrize("names", [dict(NAMES), ["red", "white"]])
def test_class_names_are_a_dictionary_or_a_list(tmp_path: Path, names: Any) -> None:
    model, classes = network()
    model.names = names
    assert read(save(tmp_path / "m.pt", model, classes)).classes == ("red", "white")


def test_a_state_dict_is_left_to_torch(tmp_path: Path) -> None:
    model, _ = network()
    for content in (model.state_dict(), {"model": model.state_dict(), "epoch": 3}):
        torch.save(content, tmp_path / "w.pt")
        assert read_checkpoint(tmp_path / "w.pt") is None
        assert list(read_tensors(tmp_path / "w.pt", "teacher")) == list(model.state_dict())


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("SegmentationModel", "holds a SegmentationModel, for the task segment; expected a det"),
        ("PoseModel", r"holds a PoseModel.*task detect\)"),
        ("OBBModel", "holds a OBBModel"),
        ("ClassificationModel", "holds a ClassificationModel"),
        ("WorldModel", "holds a WorldModel"),
        ("models.yolo.DetectionModel", "a checkpoint of the repository YOLOv5"),
        ("models.yolo.Model", r"YOLOv7.*pickles models\.yolo\.Model"),
        ("mine.Net", r"whole model of the class mine\.Net, which is not Ultralytics'"),
    ],
)
def test_a_model_of_another_task_or_repository_is_refused_by_name(
    tmp_path: Path, task: str, message: str
) -> None:
    model, classes = network(task)
    model.task = "segment" if task == "SegmentationModel" else "other"
    file = save(tmp_path / "best.pt", checkpoint(model), classes)
    with pytest.raises(RecipeError, match=message) as caught:
        read_tensors(file, "teacher")
    assert str(caught.value).startswith(f"{file}: ")


def test_a_fused_model_is_refused(tmp_path: Path) -> None:
    model, classes = network(fused=True)
    with pytest.raises(RecipeError, match=r"is fused \(its BatchNorm is folded"):
        read_tensors(save(tmp_path / "best.pt", model, classes), "teacher")


def test_a_model_without_tensors_is_refused(tmp_path: Path) -> None:
    model, classes = network()
    model.model = nn.Sequential()
    with pytest.raises(DataError, match="without tensors"):
        read_tensors(save(tmp_path / "best.pt", model, classes), "teacher")


def test_a_torchscript_archive_is_refused_as_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("best/data.pkl", "best/constants.pkl", "best/code/__torch__.py"):
            archive.writestr(name, b"\x80\x02N.")
    with pytest.raises(RecipeError, match="is a TorchScript archive"):
        read_tensors(file, "teacher")


class Call:
    """Pickles as a call of a function, and as attributes to be set on what it returns."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("place", ["beside", "attribute", "module", "tensor", "state", "names"])
def test_a_call_anywhere_in_a_checkpoint_does_not_run_and_is_named(
    tmp_path: Path, place: str, legacy: bool
) -> None:
    trap = tmp_path / "ran"
    call = Call(os.mkdir, str(trap))
    model, classes = network()
    content = checkpoint(model)
    if place == "beside":
        content["license"] = call
    elif place == "attribute":
        model.extra = Call(partial, Call(eval, f"__import__('os').mkdir({str(trap)!r})"))
    elif place == "module":
        model.model[0]._modules["bn"] = call
    elif place == "tensor":
        model.model[0].conv._parameters["weight"] = call
    elif place == "state":
        model.extra = Call(Path, "x", state=call)
    else:
        model.names = {0: call}
    file = save(tmp_path / "best.pt", content, classes, legacy=legacy)
    named = "eval" if place == "attribute" else r"(posix|nt)\.mkdir"
    with pytest.raises(RecipeError, match=rf"refused: the file names '.*{named}'") as caught:
        read_tensors(file, "teacher")
    assert "It was not run here" in str(caught.value)
    assert not trap.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.exec",
        "builtins.__import__",
        "subprocess.Popen",
        "importlib.import_module",
        "torch.hub.load",
        "torch.load",
        "torch.storage._load_from_bytes",
        "torch.utils.cpp_extension.load",
        "torch.nn.modules.conv.Conv2d.__init__.__globals__",
        "ultralytics.utils.checks.check_requirements",
        "ultralytics.utils.os.system",
        "numpy.load",
        "pathlib.os.system",
        "runpy._run_code",
        "collections.abc.sys.modules",
        "foreign.loader",
    ],
)
def test_names_that_no_checkpoint_needs_are_refused(tmp_path: Path, name: str) -> None:
    model, classes = network()
    module, _, own = name.rpartition(".")
    model.extra = Call(class_of("placeholder.Aaa", object))
    placeholder = model.extra.reduced[0]
    file = save(tmp_path / "m.pt", model, (*classes, placeholder))
    with zipfile.ZipFile(file) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for entry, data in content.items():
            new = data.replace(b"cplaceholder\nAaa\n", f"c{module}\n{own}\n".encode())
            assert entry != "m/data.pkl" or new != data
            archive.writestr(entry, new)
    with pytest.raises(RecipeError, match="no checkpoint needs") as caught:
        read_tensors(file, "teacher")
    assert repr(name) in str(caught.value)


def test_weights_that_are_refused_by_torch_name_what_would_have_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Call(os.mkdir, str(tmp_path / "ran"))}, tmp_path / "w.pt")
    with pytest.raises(RecipeError, match=r"refused.*\(it names '(posix|nt)\.mkdir'\)"):
        read_tensors(tmp_path / "w.pt", "teacher")
