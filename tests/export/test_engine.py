import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.artifact.manifest import file_sha256, read_manifest, write_manifest
from export.backends.onnxruntime.engine import OnnxRuntimeEngine
from export.backends.onnxruntime.settings import OnnxRuntimeConfig
from export.engine import detect, detect_on_canvases, open_engine
from export.errors import ExportError
from export.graph.nms import put_nms_inside
from export.pictures.images import to_tensor
from tests.export.tiny import canvases


def copied(model: Path, folder: Path) -> Path:
    for file in model.parent.iterdir():
        shutil.copy(file, folder)
    return folder / model.name


def test_an_engine_gives_candidates_of_the_promised_types(dynamic_model):
    with open_engine(dynamic_model, threads=1) as engine:
        found = engine.candidates(to_tensor(canvases(2)))
    assert engine.manifest.classes == ("cat", "dog")
    assert (found.boxes.shape, found.scores.shape) == ((2, 16, 4), (2, 16))
    types = [str(array.dtype) for array in (found.boxes, found.scores, found.labels)]
    assert types == ["float32", "float32", "int32"]


def test_threads_default_to_the_cores_and_can_be_set(static_model):
    config = OnnxRuntimeConfig()
    assert OnnxRuntimeEngine(static_model, config).threads >= 1
    assert OnnxRuntimeEngine(static_model, OnnxRuntimeConfig(threads=3)).threads == 3


def test_a_file_that_is_not_the_described_one_is_refused(static_model, tmp_path):
    path = copied(static_model, tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ExportError, match="do not belong together"), open_engine(path):
        pass


def test_a_broken_graph_with_a_true_hash_is_refused_by_name(static_model, tmp_path):
    path = copied(static_model, tmp_path)
    path.write_bytes(b"no graph")
    sidecar = path.with_suffix(".json")
    manifest = read_manifest(sidecar).model_copy(update={"sha256": file_sha256(path)})
    write_manifest(manifest, sidecar)
    with pytest.raises(ExportError, match="cannot load it"), open_engine(path):
        pass


def test_a_sidecar_with_another_input_than_the_graph_is_refused(static_model, tmp_path):
    path = copied(static_model, tmp_path)
    manifest = read_manifest(path.with_suffix(".json"))
    spec = manifest.input.model_copy(update={"height": 64})
    write_manifest(manifest.model_copy(update={"input": spec}), path.with_suffix(".json"))
    with pytest.raises(ExportError, match="its sidecar states"), open_engine(path):
        pass


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 32, 32), dtype=np.float32),  # the batch is fixed to one
        np.zeros((1, 3, 32, 31), dtype=np.float32),
        np.zeros((1, 3, 32, 32), dtype=np.float64),
        np.zeros((3, 32, 32), dtype=np.float32),
    ],
    ids=["batch", "width", "type", "dimensions"],
)
def test_images_of_another_shape_or_type_are_refused(static_model, images):
    with (
        open_engine(static_model, threads=1) as engine,
        pytest.raises(ExportError, match=r"expected \(1, 3, 32, 32\) float32"),
    ):
        engine.candidates(images)


def with_weights(source: Path, folder: Path, value: float) -> Path:
    """Copy a model and set the weights of its first convolution."""
    model = Path(shutil.copytree(source.parent, folder)) / source.name
    graph = onnx.load(model)
    weights = next(w for w in graph.graph.initializer if len(w.dims) == 4)
    values = onnx.numpy_helper.to_array(weights).copy()
    values[...] = value
    weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
    onnx.save(graph, model)
    sidecar = model.with_suffix(".json")
    changed = {"sha256": file_sha256(model)}
    write_manifest(read_manifest(sidecar).model_copy(update=changed), sidecar)
    return model


@pytest.mark.parametrize("mode", ["host", "graph", "matrix"])
def test_a_broken_model_is_no_model_that_finds_nothing(static_model, tmp_path, mode):
    source = Path(shutil.copytree(static_model.parent, tmp_path / "source")) / static_model.name
    if mode != "host":
        put_nms_inside(source, mode, canvases(1))
    for value, said in ((np.nan, "holds NaN"), (np.inf, "an operand of Conv, holds infinity")):
        model = with_weights(source, tmp_path / f"{value}", value)
        with (
            pytest.raises(ExportError, match=rf"model\.onnx: tensor '.*{said}"),
            open_engine(model, threads=1),
        ):
            pass
    # each number is finite, and what they give is not
    model = with_weights(source, tmp_path / "overflows", 3e38)
    with open_engine(model, threads=1) as engine:
        with pytest.raises(ExportError, match=r"model\.onnx .* not finite"):
            detect(engine, canvases(1), 0.25)
        with pytest.raises(ExportError, match="not finite"):
            detect_on_canvases(engine, canvases(1), 0.25)
    with open_engine(source, threads=1) as engine:
        assert len(detect(engine, canvases(1), 0.25)[0].scores)


def test_using_a_closed_engine_is_an_error(static_model):
    engine = open_engine(static_model, threads=1)
    with pytest.raises(ExportError, match="inside a `with` statement"):
        engine.candidates(to_tensor(canvases(1)))


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ExportError, match=r"model\.onnx: no such model file"):
        open_engine(tmp_path / "model.onnx")


def test_an_artifact_for_another_backend_is_refused(static_model, tmp_path):
    path = copied(static_model, tmp_path)
    manifest = read_manifest(path.with_suffix(".json"))
    write_manifest(manifest.model_copy(update={"backend": "openvino"}), path.with_suffix(".json"))
    with pytest.raises(
        ExportError, match="made for openvino fp32; this version opens onnxruntime, tensorrt"
    ):
        open_engine(path)


def test_a_precision_the_artifact_does_not_have_is_refused(static_model):
    with pytest.raises(ExportError, match="open it with precision: fp32"):
        OnnxRuntimeEngine(static_model, OnnxRuntimeConfig(precision="int8"))


def test_cuda_never_falls_back_to_the_cpu(static_model):
    import onnxruntime
    import torch

    if torch.cuda.is_available() and "CUDAExecutionProvider" in (
        onnxruntime.get_available_providers()
    ):
        pytest.skip("this machine has a CUDA device, so the request can be met")
    with (
        pytest.raises(ExportError, match="device cuda was asked for"),
        open_engine(static_model, device="cuda"),
    ):
        pass


@pytest.mark.slow
def test_the_device_side_loads_no_heavy_package():
    script = (
        "import sys, export.engine, export.predict, export.build\n"
        "import export.graph.to_onnx, export.precision.int8\n"
        "heavy = {'torch', 'torchvision', 'onnxruntime', 'onnx', 'yaml', 'matplotlib'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""
