import os
import pickle
import urllib.error
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.parts.backbones import SlimResNetConfig
from compress.parts.pretrained import load_backbone_weights
from compress.parts.weights import (
    check_weights,
    fill,
    inherit,
    load_weights,
    save_weights,
    weights_hash,
)
from export.errors import DataError, MissingDependencyError, RecipeError
from tests.compress.detectors.small import small_detector


def net(width=3):
    return nn.Sequential(nn.Conv2d(2, width, 1), nn.BatchNorm2d(width))


def test_saved_weights_come_back_whatever_their_memory_format(tmp_path):
    saved, loaded = small_detector("gfl").to(memory_format=torch.channels_last), net()
    loaded = small_detector("gfl")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    save_weights(saved.state_dict(), tmp_path / "w.safetensors")
    report = load_weights(loaded, tmp_path / "w.safetensors", strict=True, what="student")
    assert report.complete
    assert len(report.loaded) == len(saved.state_dict())
    assert weights_hash(loaded) == weights_hash(saved)
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_hash_sees_one_changed_buffer():
    module = net()
    before = weights_hash(module)
    assert weights_hash(module) == before
    module[1].running_mean[0] = 1e-7
    assert weights_hash(module) != before


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s}, lambda s: {"state_dict": s}])
def test_a_torch_file_is_unwrapped(tmp_path, wrap):
    source, module = net(), net()
    torch.save(wrap(source.state_dict()), tmp_path / "w.pth")
    load_weights(module, tmp_path / "w.pth", strict=True, what="teacher")
    assert weights_hash(module) == weights_hash(source)


def test_a_family_s_weights_are_loaded_by_the_names_of_another_library(tmp_path, monkeypatch):
    saved, loaded = small_detector("gfl"), small_detector("gfl")
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter.add_(1)
    state = {f"model.{name}": tensor for name, tensor in saved.state_dict().items()}
    save_weights(state, tmp_path / "w.safetensors")
    with pytest.raises(RecipeError, match="not the weights of this student"):
        load_weights(loaded, tmp_path / "w.safetensors", strict=True, what="student")
    monkeypatch.setattr(
        type(loaded),
        "renamed",
        lambda _, found: {name.removeprefix("model."): found[name] for name in found},
    )
    check_weights(loaded, tmp_path / "w.safetensors", strict=True, what="student")
    load_weights(loaded, tmp_path / "w.safetensors", strict=True, what="student")
    assert weights_hash(loaded) == weights_hash(saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name_and_loaded_nowhere(tmp_path, value):
    source, module = net(), net()
    source[1].running_var[1] = value
    torch.save(source.state_dict(), tmp_path / "w.pth")
    before = weights_hash(module)
    with pytest.raises(DataError, match=r"w\.pth: 1 of \d tensors hold NaN .*1\.running_var"):
        load_weights(module, tmp_path / "w.pth", strict=True, what="teacher")
    with pytest.raises(DataError, match="NaN or infinite"):
        fill(module, source.state_dict(), "w.pth", rename={})
    assert weights_hash(module) == before


def test_weights_that_match_in_part_are_refused_with_counts_and_names(tmp_path):
    state = net(width=4).state_dict()
    del state["1.bias"]
    state["extra"] = torch.zeros(1)
    torch.save(state, tmp_path / "w.pt")
    module = net()
    before = weights_hash(module)
    with pytest.raises(RecipeError) as caught:
        load_weights(module, tmp_path / "w.pt", strict=True, what="teacher weights")
    text = str(caught.value)
    assert "these are not the weights of this teacher: " in text
    assert "1 missing (1.bias)" in text
    assert "1 unexpected (extra)" in text
    assert "0.weight: (4, 2, 1, 1) in the file, (3, 2, 1, 1) here" in text
    assert weights_hash(module) == before


def test_a_part_may_be_loaded_when_that_is_asked_for(tmp_path):
    source, module = net(), net()
    torch.save({"0.weight": source.state_dict()["0.weight"]}, tmp_path / "w.pt")
    report = load_weights(module, tmp_path / "w.pt", strict=False, what="student")
    assert report.loaded == ("0.weight",)
    assert torch.equal(module[0].weight, source[0].weight)
    assert "5 missing" in report.summary()


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (self.path,))


@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, write):
    trap, file = tmp_path / "ran", tmp_path / "w.pt"
    if write == "pickle":
        file.write_bytes(pickle.dumps({"state_dict": Hostile(str(trap))}))
    else:
        torch.save({"state_dict": Hostile(str(trap))}, file)
    with pytest.raises(RecipeError, match=r"refused.*could run any code"):
        load_weights(net(), file, strict=True, what="teacher")
    assert not trap.exists()


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("none.pt", None, RecipeError, "no such file"),
        ("w.onnx", b"x", RecipeError, "must be a .safetensors"),
        ("w.safetensors", b"broken", DataError, "cannot be read"),
        ("w.pt", b"broken", DataError, "cannot be read"),
        ("w.pt", b"", DataError, "is empty; fetch or save it again"),
        ("w.safetensors", b"", DataError, "is empty; fetch or save it again"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message) as caught:
        load_weights(net(), tmp_path / name, strict=True, what="teacher")
    assert name in str(caught.value)


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="holds no tensors"):
        load_weights(net(), tmp_path / "w.pt", strict=True, what="teacher")


def test_a_student_inherits_neck_and_head_and_keeps_its_backbone():
    student = small_detector("gfl")
    teacher = small_detector("gfl", backbone=SlimResNetConfig(widths=(16, 16, 16, 32)))
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.add_(1)
    before = weights_hash(student.get_submodule("backbone"))
    report = inherit(student, teacher)
    assert weights_hash(student.get_submodule("head")) == weights_hash(
        teacher.get_submodule("head")
    )
    assert weights_hash(student.get_submodule("backbone")) == before
    # the coarsest stage is wider in the teacher, so the layer that takes it cannot be copied
    assert report.skipped == ("neck.fpn.inner_blocks.2.0.weight",)
    assert "1 skipped" in report.summary()
    assert all(not name.startswith("backbone.") for name in report.copied)


def imagenet_like(tmp_path: Path) -> Path:
    from torchvision.models import resnet18

    torch.save(resnet18(weights=None).state_dict(), tmp_path / "resnet18.pth")
    return tmp_path / "resnet18.pth"


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_a_classifiers_file_fills_a_backbone(tmp_path, norm):
    file = imagenet_like(tmp_path)
    detector = small_detector("gfl", backbone="resnet18", norm=norm)
    report = load_backbone_weights(detector, "resnet18", str(file))
    stem = torch.load(file, weights_only=True)["conv1.weight"]
    assert torch.equal(detector.state_dict()["backbone.body.conv1.weight"], stem)
    assert {"fc.weight", "fc.bias"} <= set(report.unexpected)


def test_a_detectors_own_file_fills_a_backbone(tmp_path):
    source = small_detector("retinanet", backbone="mobilenet_v3_small")
    save_weights(source.state_dict(), tmp_path / "w.safetensors")
    detector = small_detector("gfl", backbone="mobilenet_v3_small")
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(1)
    load_backbone_weights(detector, "mobilenet_v3_small", str(tmp_path / "w.safetensors"))
    assert weights_hash(detector.get_submodule("backbone")) == weights_hash(
        source.get_submodule("backbone")
    )


@pytest.mark.slow
def test_another_backbones_file_is_refused(tmp_path):
    file = imagenet_like(tmp_path)
    with pytest.raises(RecipeError, match="not the weights of this backbone"):
        load_backbone_weights(small_detector("gfl", backbone="resnet34"), "resnet34", str(file))


def test_weights_that_cannot_be_fetched_say_which_file_to_put_where(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    detector = small_detector("gfl", backbone="resnet18")
    with pytest.raises(MissingDependencyError) as caught:
        load_backbone_weights(detector, "resnet18", "torchvision")
    assert "https://download.pytorch.org/models/resnet18-" in str(caught.value)
    assert str(tmp_path / "checkpoints" / "resnet18-") in str(caught.value)
