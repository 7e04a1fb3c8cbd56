"""Inputs and outputs that stay where the session computes; here that is the CPU, by the same calls.

What only a GPU can show (copies between two memories, a recorded CUDA graph) is the last test,
which runs by itself where there is one.
"""

import numpy as np
import pytest

from export.artifact.manifest import read_manifest
from export.backends.interface import DeviceEngine
from export.backends.onnxruntime.binding import require_graph
from export.backends.onnxruntime.engine import OnnxRuntimeEngine
from export.backends.onnxruntime.providers import provider_settings
from export.backends.onnxruntime.settings import OnnxRuntimeConfig
from export.engine import open_engine
from export.errors import ExportError
from export.graph.nms import put_nms_inside
from export.graph.uint8_input import take_uint8
from export.pictures.images import to_input, to_tensor
from tests.export.test_engine import copied
from tests.export.tiny import canvases

CPU_ALONE = OnnxRuntimeConfig(threads=1)
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"


def passed(engine, images):
    engine.upload(images)
    engine.enqueue()
    engine.synchronize()
    return engine.download()


def test_a_bound_pass_equals_a_plain_pass_at_every_batch_size(dynamic_model):
    with OnnxRuntimeEngine(dynamic_model, CPU_ALONE) as engine:
        assert isinstance(engine, DeviceEngine)
        for batch in (2, 1, 2, 3):
            images = to_tensor(canvases(batch))
            expected, found = engine.candidates(images), passed(engine, images)
            assert (found["boxes"] == expected.boxes).all()
            assert (found["scores"] == expected.scores).all()
            assert (found["labels"] == expected.labels).all()
            assert found["labels"].dtype == np.int32


def test_addresses_stay_and_later_passes_do_not_touch_earlier_results(dynamic_model):
    first, second = (to_tensor([canvas]) for canvas in canvases(2))
    with OnnxRuntimeEngine(dynamic_model, CPU_ALONE) as engine:
        found = passed(engine, first)
        kept = {name: array.copy() for name, array in found.items()}
        addresses = engine._bound.addresses
        passed(engine, np.concatenate([first, second]))  # another batch has its own
        assert not set(addresses) & set(engine._bound.addresses)
        other = passed(engine, second)
        assert engine._bound.addresses == addresses
        assert all((found[name] == kept[name]).all() for name in found)
        assert not (other["scores"] == found["scores"]).all()
        engine.upload(first)  # what was uploaded last is what a pass is over
        engine.enqueue()
        engine.enqueue()
        assert (engine.download()["scores"] == found["scores"]).all()


def test_bytes_are_bound_as_bytes_and_nms_in_the_graph_gives_its_count(dynamic_model, tmp_path):
    path = copied(dynamic_model, tmp_path)
    take_uint8(path)
    put_nms_inside(path, "matrix", canvases(2))
    with OnnxRuntimeEngine(path, CPU_ALONE) as engine:
        images = to_input(canvases(2), engine.manifest.input)
        expected, found = engine.candidates(images), passed(engine, images)
        with pytest.raises(ExportError, match=r"expected \(B, 32, 32, 3\) uint8"):
            engine.upload(to_tensor(canvases(2)))
    assert set(found) == {"num", "boxes", "scores", "labels"}
    assert (found["scores"] == expected.scores).all()


def test_nothing_runs_before_an_upload_or_after_the_end(static_model):
    engine = OnnxRuntimeEngine(static_model, CPU_ALONE)
    with engine:
        with pytest.raises(ExportError, match="nothing was uploaded yet"):
            engine.enqueue()
        engine.upload(to_tensor(canvases(1)))
    with pytest.raises(ExportError, match="inside a `with` statement"):
        engine.enqueue()
    with engine, pytest.raises(ExportError, match="nothing was uploaded yet"):
        engine.download()


def test_only_the_cuda_provider_gets_the_cuda_graph_option(static_model, tmp_path):
    (name, settings), *_ = provider_settings("cuda", tmp_path, None, graph=True)
    assert (name, settings["enable_cuda_graph"]) == (CUDA, "1")
    (_, plain), *_ = provider_settings("cuda", tmp_path, None)
    assert "enable_cuda_graph" not in plain
    engine = OnnxRuntimeEngine(static_model, OnnxRuntimeConfig(cuda_graph=True, threads=1))
    with pytest.raises(ExportError, match="and the device is cpu"), engine:
        pass


def test_a_cuda_graph_is_refused_where_it_could_not_hold_the_whole_pass(static_model):
    manifest = read_manifest(static_model.with_suffix(".json"))
    open_batch = manifest.input.model_copy(update={"dynamic_batch": True})
    in_graph = manifest.nms.model_copy(update={"mode": "graph"})
    require_graph(static_model, manifest, "cuda", {CUDA: 9})
    for changed, placed, said in (
        (manifest.model_copy(update={"input": open_batch}), {CUDA: 9}, "its batch is open"),
        (manifest.model_copy(update={"nms": in_graph}), {CUDA: 9}, "NMS in its graph waits"),
        (manifest, {CUDA: 9, CPU: 1}, r"not all of its kernels .* \(1 on CPUExecutionProvider\)"),
    ):
        with pytest.raises(ExportError, match=said):
            require_graph(static_model, changed, "cuda", placed)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_the_cuda_provider_gives_the_detections_of_the_cpu(static_model, graph):
    pictures = [to_tensor([canvas]) for canvas in canvases(4)]
    with open_engine(static_model, threads=1) as engine:
        expected = [engine.candidates(images) for images in pictures]
    with open_engine(static_model, device="cuda", cuda_graph=graph) as engine:
        found = [engine.candidates(images) for images in pictures]
    for one, other in zip(expected, found, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=1e-4)
        assert other.boxes == pytest.approx(one.boxes, abs=0.05)
