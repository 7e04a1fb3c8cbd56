import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from benchmarks.data.image_set import ImageSet
from compress.teaching.boxes import BoxLimits
from compress.teaching.classes import in_section, match_classes
from compress.teaching.config import OnnxTeacher
from compress.teaching.formats.graph import Pixels
from compress.teaching.onnx.detector import BoxDetector, open_detector
from compress.teaching.onnx.graph_file import OpenGraph, open_graph
from compress.teaching.onnx.running import taught_by
from export.artifact.manifest import file_sha256, write_manifest
from export.errors import ExportError, RecipeError
from tests.compress.teaching.sets import labeled_set
from tests.manifests import make_manifest

SIDE = 64
HERE = in_section("recipe.yaml:7: teacher")
TYPES = {
    "float32": TensorProto.FLOAT,
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
}


def write_graph(
    path: Path,
    outputs: Mapping[str, NDArray[np.generic]],
    *,
    shape: Sequence[object] = ("batch", 3, SIDE, SIDE),
    kind: str = "float32",
    more: Mapping[str, Sequence[object]] | None = None,
    shown: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """A graph that gives `outputs` whatever it sees, and the inputs named in `shown` as outputs."""
    more, shown = more or {}, shown or {}
    inputs = [helper.make_tensor_value_info("images", TYPES[kind], shape)]
    inputs += [
        helper.make_tensor_value_info(name, TensorProto.INT64, stated)
        for name, stated in more.items()
    ]
    given = [
        helper.make_tensor_value_info(n, TYPES[v.dtype.name], None) for n, v in outputs.items()
    ]
    kinds = {"images": kind, **dict.fromkeys(more, "int64")}
    given += [helper.make_tensor_value_info(n, TYPES[kinds[of]], None) for n, of in shown.items()]
    stored = [numpy_helper.from_array(value, f"{name}_value") for name, value in outputs.items()]
    nodes = [helper.make_node("Identity", [f"{name}_value"], [name]) for name in outputs]
    nodes += [helper.make_node("Identity", [of], [name]) for name, of in shown.items()]
    graph = helper.make_graph(nodes, "g", inputs, given, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, dict(metadata or {}))
    onnx.save(model, path)
    return path


def settings(path: Path, **more: Any) -> OnnxTeacher:
    return OnnxTeacher.model_validate_json(
        json.dumps({"type": "onnx", "model": str(path), "classes": ["a", "b"], **more})
    )


def opened(path: Path, **more: Any) -> BoxDetector:
    return open_detector(settings(path, **more), "cpu", HERE)


def loaded(path: Path, size: tuple[int, int] | None = None) -> OpenGraph:
    return open_graph(path, "cpu", size=size, named=None, sidecar="none", at=HERE)


def cells(*columns: Sequence[float], batch: int = 1) -> dict[str, NDArray[np.generic]]:
    """An output of Ultralytics' form for two classes, with these boxes in the first cells."""
    output = np.zeros((batch, 6, 84), dtype=np.float32)
    for place, column in enumerate(columns):
        output[:, :, place] = column
    return {"output0": output}


def drawn_set(count: int = 1) -> ImageSet:
    """Grey pictures of 100 x 80 pixels."""
    images = labeled_set([f"{number}.jpg" for number in range(count)], classes=("a", "b"))
    return replace(images, draw=_grey)


def _grey(_: int) -> NDArray[np.uint8]:
    return np.full((80, 100, 3), 90, dtype=np.uint8)


def taught(detector: BoxDetector, images: ImageSet) -> list[list[float]]:
    match = match_classes(images.classes, detector.classes, {}, HERE)
    with detector.engine:
        found = taught_by(detector, images, match, BoxLimits(0.1, 5))
    return [found.of(index).boxes.tolist() for index in range(len(images))]


@pytest.mark.parametrize(
    ("resize", "box"),
    [
        # 64 / 100 of the picture's size, so its lower side is at 51.2 (drawn at 51) of 64
        ("letterbox", [25, 0, 75, 80]),
        ("stretch", [25, 0, 75, 80]),
    ],
)
def test_boxes_come_in_pixels_of_the_original_picture(
    tmp_path: Path, resize: str, box: list[float]
) -> None:
    height = 51 if resize == "letterbox" else 64
    path = write_graph(tmp_path / "x.onnx", cells([32, height / 2, 32, height, 0.9, 0]))
    detector = opened(path, pixels={"resize": resize})
    assert taught(detector, drawn_set())[0] == [pytest.approx(box, abs=1e-4)]


def test_what_was_found_and_how_pictures_are_prepared_is_said(tmp_path: Path) -> None:
    detector = opened(write_graph(tmp_path / "x.onnx", cells()), pixels={"color": "bgr"})
    assert detector.lines() == [
        "format ultralytics: 6 rows (a box and 2 classes) for each of the 84 cells of strides 8, "
        "16, 32",
        "2 classes; pictures of 64 x 64: letterbox, filled with 114, BGR in 0..1; NMS at an IoU of "
        "0.7",
    ]


def test_colours_range_mean_and_deviation_reach_the_graph(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "x.onnx", {}, shown={"seen": "images"})
    images = np.zeros((2, 3, SIDE, SIDE), dtype=np.float32)
    images[:, 0], images[:, 2] = 1.0, 0.2  # red, some blue
    pixels = Pixels(color="bgr", range=255, mean=(1, 2, 5), std=(1, 2, 10))
    graph = loaded(path)
    seen = graph.run(graph.tensor(images, pixels))["seen"]
    # blue 51 - 1, green (0 - 2) / 2, red (255 - 5) / 10
    assert seen[1, :, 3, 3].tolist() == pytest.approx([50, -1, 25])


def test_a_graph_of_bytes_with_channels_last_gets_them(tmp_path: Path) -> None:
    path = write_graph(
        tmp_path / "x.onnx", {}, shape=(1, SIDE, SIDE, 3), kind="uint8", shown={"seen": "images"}
    )
    images = np.full((1, 3, SIDE, SIDE), 0.4, dtype=np.float32)
    images[:, 1] = 1
    graph = loaded(path)
    seen = graph.run(graph.tensor(images, Pixels(range=255)))["seen"]
    assert seen.dtype == np.uint8
    assert seen[0, 0, 0].tolist() == [102, 255, 102]


def test_further_inputs_that_are_known_are_given(tmp_path: Path) -> None:
    path = write_graph(
        tmp_path / "x.onnx",
        {},
        shape=("batch", 3, 32, SIDE),
        more={"orig_target_sizes": ("batch", 2), "pixel_mask": ("batch", 8, 8)},
        shown={"size": "orig_target_sizes", "mask": "pixel_mask"},
    )
    outputs = loaded(path).graph.outputs
    assert outputs["size"].tolist() == [[SIDE, 32]]
    assert outputs["mask"].shape == (1, 8, 8)
    write_graph(path, {}, more={"scale_factor": (1, 2)}, shown={"seen": "images"})
    with pytest.raises(
        ExportError, match="no known format states what scale_factor is to be given"
    ):
        loaded(path)


def test_a_fixed_batch_takes_any_number_of_pictures(tmp_path: Path) -> None:
    output = cells([32, 32, 16, 16, 0.9, 0], batch=2)
    path = write_graph(tmp_path / "x.onnx", output, shape=(2, 3, SIDE, SIDE))
    assert len(taught(opened(path), drawn_set(3))) == 3


@pytest.mark.parametrize("shape", [(0, 3, SIDE, SIDE), (4096, 3, 640, 640), (1, 3, 60000, 60000)])
def test_a_pass_that_no_memory_holds_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_graph(tmp_path / "x.onnx", cells(), shape=shape)
    with pytest.raises(ExportError, match=f"takes {shape[0]} pictures of {shape[2]} x {shape[3]}"):
        opened(path)


def test_an_output_of_no_rows_is_one_of_no_format(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "x.onnx", {"output": np.zeros((0, 84, 84), np.float32)})
    with pytest.raises(ExportError, match="formats read"):
        opened(path, classes=None)


def test_a_graph_that_gives_fewer_pictures_than_it_takes_is_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "x.onnx", cells([32, 32, 16, 16, 0.9, 0], batch=1))
    with pytest.raises(ExportError, match="gives boxes of 1 picture for 3"):
        taught(opened(path), drawn_set(3))


def test_a_size_that_is_left_open_must_be_given(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "x.onnx", cells(), shape=("batch", 3, "height", "width"))
    with pytest.raises(RecipeError, match="takes pictures of any size; set image_size"):
        opened(path)
    assert opened(path, image_size=SIDE).engine.manifest.input.width == SIDE
    write_graph(
        path,
        cells(),
        shape=("batch", 3, "height", "width"),
        metadata={"imgsz": f"[{SIDE}, {SIDE}]"},
    )
    assert opened(path).engine.manifest.input.height == SIDE
    write_graph(path, cells())
    with pytest.raises(RecipeError, match=r"image_size: 96 x 96 .* takes pictures of 64 x 64"):
        opened(path, image_size=96)


def test_class_names_must_be_known_and_as_many_as_there_are(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "x.onnx", cells())
    with pytest.raises(RecipeError, match=r"teacher\.classes: .* states no names of its 2 classes"):
        opened(path, classes=None)
    with pytest.raises(RecipeError, match=r"classes: 3 names, and .* has 2 classes"):
        opened(path, classes=["a", "b", "c"], format="ultralytics")
    write_graph(path, cells(), metadata={"names": "{0: 'cat', 1: 'dog'}"})
    assert opened(path, classes=None).classes == ("cat", "dog")
    with pytest.raises(RecipeError, match="label 0 is 'cat' there, 'a' in the recipe"):
        opened(path)


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    rows = np.zeros((1, 300, 6), dtype=np.float32)
    rows[0, 0] = [1, 2, 30, 40, 0.8, 7]
    path = write_graph(tmp_path / "x.onnx", {"output0": rows})
    with pytest.raises(ExportError, match="gives the label 7, and 2 class names are given"):
        taught(opened(path), drawn_set())


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    rows = np.zeros((1, 300, 6), dtype=np.float32)
    rows[0, 0, 0] = np.nan
    path = write_graph(tmp_path / "x.onnx", {"output0": rows})
    with pytest.raises(ExportError, match="gives boxes or scores that are not finite"):
        taught(opened(path), drawn_set())


def test_a_missing_file_and_one_that_is_no_onnx_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.onnx: no such file; .*teacher\.model"):
        opened(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("not a graph")
    with pytest.raises(ExportError, match=r"text\.onnx: ONNX Runtime .* cannot load it"):
        opened(tmp_path / "text.onnx")
    write_graph(tmp_path / "grey.onnx", {}, shape=(1, 1, 8, 8), shown={"seen": "images"})
    with pytest.raises(ExportError, match="expected one input of pictures"):
        opened(tmp_path / "grey.onnx")


def test_weights_in_a_file_beside_it_are_read_and_hashed(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "x.onnx", cells([32, 32, 16, 16, 0.9, 0]))
    plain = opened(path).engine.manifest.sha256
    assert plain == file_sha256(path)
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="x.data", size_threshold=0)
    beside = opened(path)
    assert len(taught(beside, drawn_set())[0]) == 1
    first = beside.engine.manifest.sha256
    data = bytearray((tmp_path / "x.data").read_bytes())
    data[-4:] = b"\0\0\0\1"
    (tmp_path / "x.data").write_bytes(data)
    assert len({plain, first, opened(path).engine.manifest.sha256}) == 3
    (tmp_path / "x.data").unlink()
    with pytest.raises(ExportError, match=r"x\.(onnx|data)"):
        opened(path)


def own_artifact(tmp_path: Path) -> Path:
    outputs = {
        "boxes": np.array([[[16, 0, 48, 51]]], dtype=np.float32),
        "scores": np.array([[0.9]], dtype=np.float32),
        "labels": np.array([[1]], dtype=np.int32),
    }
    path = write_graph(tmp_path / "model.onnx", outputs, shape=(1, 3, SIDE, SIDE))
    manifest = make_manifest("tiny", (SIDE, SIDE), ("b", "a"), path=path)
    write_manifest(manifest, path.with_suffix(".json"))
    return path


def test_an_artifact_of_our_own_needs_no_settings_but_its_path(tmp_path: Path) -> None:
    path = own_artifact(tmp_path)
    detector = opened(path, classes=None)
    assert detector.lines()[0] == "format slimdet: its sidecar: tiny, onnxruntime fp32"
    assert taught(detector, drawn_set(2)) == [[pytest.approx([25, 0, 75, 80], abs=1e-4)]] * 2
    with pytest.raises(RecipeError, match=r"pixels: .* its sidecar states this; remove the key"):
        opened(path, classes=None, pixels={"color": "bgr"})
    path.with_suffix(".json").unlink()
    with pytest.raises(ExportError, match=r"no artifact of slimdet: no sidecar model\.json beside"):
        opened(path, classes=None, format="slimdet")


def test_an_unrelated_json_beside_a_file_is_no_hindrance(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "x.onnx", cells())
    path.with_suffix(".json").write_text('{"anything": 1}')
    assert opened(path).format == "ultralytics"
    with pytest.raises(ExportError, match=r"is no artifact of slimdet: .*x\.json: not a sidecar"):
        opened(path, format="slimdet")
