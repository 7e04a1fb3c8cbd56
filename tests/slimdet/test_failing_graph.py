"""Graphs that load, and then fail or give something else than boxes: one message, no escapes."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import slimdet
from export.artifact.manifest import file_sha256
from export.errors import ExportError
from slimdet.__main__ import main
from tests.drill.bundles import make_model

EVIL = "\x1b[31mred\x1b]0;title\x07"  # steers a terminal where it is shown as it is
Change = Callable[[onnx.ModelProto], None]


def _after(model: onnx.ModelProto, name: str, *nodes: onnx.NodeProto) -> None:
    """Put nodes between a result, which is called `old` then, and the output of its name."""
    for node in model.graph.node:
        node.output[:] = ["old" if one == name else one for one in node.output]
        node.input[:] = ["old" if one == name else one for one in node.input]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]


def fails(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([7]), "seven"))
    shape = helper.make_node("Shape", ["old"], ["shape"])
    longer = helper.make_node("Concat", ["shape", "seven"], ["longer"], axis=0)
    _after(
        model,
        "boxes",
        shape,
        longer,
        helper.make_node("Reshape", ["old", "longer"], ["boxes"], name=EVIL),
    )


def one_axis_more(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "zero"))
    _after(model, "scores", helper.make_node("Unsqueeze", ["old", "zero"], ["scores"]))


def labels_beyond_the_classes(model: onnx.ModelProto) -> None:
    (labels,) = (one for one in model.graph.output if one.name == "labels")
    kind = helper.tensor_dtype_to_np_dtype(labels.type.tensor_type.elem_type)
    model.graph.initializer.append(numpy_helper.from_array(np.array(99, kind), "more"))
    _after(model, "labels", helper.make_node("Add", ["old", "more"], ["labels"]))


def labels_with_a_point(model: onnx.ModelProto) -> None:
    (labels,) = (one for one in model.graph.output if one.name == "labels")
    labels.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    cast = helper.make_node("Cast", ["old"], ["labels"], to=onnx.TensorProto.FLOAT)
    _after(model, "labels", cast)


CHANGES: dict[Change, str] = {
    fails: "cannot be run|cannot run it",
    one_axis_more: "gives boxes .* expected",
    labels_beyond_the_classes: "gives the label",
    labels_with_a_point: "labels float32; expected|contradict",
}


@pytest.fixture(params=list(CHANGES), ids=lambda change: change.__name__)
def broken(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Return a changed artifact whose sidecar states it, and the message."""
    path = make_model(tmp_path / "model")
    model = onnx.load(path)
    request.param(model)
    path.write_bytes(model.SerializeToString())
    sidecar = path.with_suffix(".json")
    stated = json.loads(sidecar.read_text()) | {"sha256": file_sha256(path)}
    sidecar.write_text(json.dumps(stated))
    return path, CHANGES[request.param]


@pytest.mark.parametrize("command", ["predict", "bench", "bundle", "fp16", "int8"])
def test_a_command_refuses_it_with_one_message(
    broken: tuple[Path, str], command: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, said = broken
    pictures, out = tmp_path / "pictures", ["--out", str(tmp_path / "out")]
    pictures.mkdir()
    Image.new("RGB", (40, 30), (200, 90, 10)).save(pictures / "a.png")
    data = tmp_path / "val.json"
    data.write_text(json.dumps(labelled(path)), encoding="utf-8")
    arguments = {
        "predict": ["predict", str(path), str(pictures), *out],
        "bench": ["bench", str(path), "--data", str(data), "--images", str(pictures), *out],
        "bundle": ["bundle", str(path), "--golden", str(pictures / "a.png"), *out],
        "fp16": ["build", str(path), "--precision", "fp16", "--images", str(pictures), *out],
        "int8": ["build", str(path), "--precision", "int8", "--images", str(pictures), *out],
    }
    assert main(arguments[command]) == ExportError.exit_code
    told = capfd.readouterr().err
    assert told.count("error: ") == 1
    assert re.search(said, told), told
    assert "\x1b" not in told
    assert "Traceback" not in told


def test_python_refuses_it(broken: tuple[Path, str]) -> None:
    path, said = broken
    with slimdet.load(path) as model, pytest.raises(ExportError, match=said):
        model.predict(np.zeros((30, 40, 3), np.uint8))


def labelled(model: Path) -> dict[str, object]:
    """Return COCO annotations of one picture, of the model's classes."""
    stated = json.loads(model.with_suffix(".json").read_text())
    pairs = zip(stated["category_ids"], stated["classes"], strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    box = {"id": 1, "image_id": 1, "category_id": categories[0]["id"], "bbox": [3, 3, 9, 9]}
    image = {"id": 1, "file_name": "a.png", "width": 40, "height": 30}
    return {"images": [image], "annotations": [box], "categories": categories}
