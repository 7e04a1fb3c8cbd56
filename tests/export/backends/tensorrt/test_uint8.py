"""TensorRT engines of graphs that take pictures as they are: uint8, channels last."""

import sys

import numpy as np
import pytest

from benchmarks.timing.contender import Contender
from export import verify
from export.artifact.machine import BatchProfile
from export.artifact.manifest import read_manifest, write_manifest
from export.bundles.packing import write_bundle
from export.errors import ExportError
from export.pictures.images import to_input, to_tensor
from tests.export.backends.tensorrt.fake_tensorrt_engine import detect
from tests.export.backends.tensorrt.test_build import VERSIONS, Library, source
from tests.export.tiny import canvases


@pytest.fixture(params=VERSIONS)
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


def test_uint8_input_gives_the_boxes_of_float_input_at_every_batch_and_replay(library, tmp_path):
    onnx = source(tmp_path / "onnx", batch=-1, input="UINT8")
    path = library.build(onnx, tmp_path / "engine", profile=BatchProfile(min=1, opt=2, max=4))
    with library.open(path) as engine:
        for batch in (2, 2, 2, 4, 1):
            pictures = canvases(batch)
            found = engine.candidates(to_input(pictures, engine.manifest.input))
            assert found.scores == pytest.approx(detect(to_tensor(pictures))[1], abs=1e-6)
        with pytest.raises(ExportError, match=r"expected \(1\.\.4, 32, 32, 3\) uint8"):
            engine.candidates(to_tensor(canvases(1)))
        with pytest.raises(ExportError, match=r"expected \(1\.\.4, 32, 32, 3\) uint8"):
            engine.candidates(np.zeros((1, 3, 32, 32), np.uint8))


def test_a_quarter_of_the_bytes_is_reserved_and_copied(library, tmp_path):
    sizes = {}
    for kind in ("FLOAT", "UINT8"):
        path = library.build(source(tmp_path / kind, input=kind), tmp_path / f"{kind}-engine")
        with library.open(path):
            sizes[kind] = max(len(memory) for memory in library.cuda._memory.values())
    assert sizes["FLOAT"] == 4 * sizes["UINT8"] == 4 * 32 * 32 * 3


def test_the_benchmark_prepares_bytes_for_it(library, tmp_path):
    path = library.build(source(tmp_path / "onnx", input="UINT8"), tmp_path / "engine")
    with library.open(path) as engine:
        contender = Contender.prepare(engine, [canvases(1)[0]], 1, 0.25)
        assert contender.tensors[0].dtype == np.uint8
        contender.resident.upload(contender.tensors[0])
        contender.resident.enqueue()
        contender.resident.synchronize()


def test_bytes_that_go_anywhere_but_into_a_cast_are_refused(library, tmp_path):
    onnx = source(tmp_path / "onnx", input="UINT8", first="Transpose")
    with pytest.raises(ExportError, match="cannot read it"):
        library.build(onnx, tmp_path / "engine")


def test_a_sidecar_that_promises_floats_of_an_engine_of_bytes_is_found_out(library, tmp_path):
    path = library.build(source(tmp_path / "onnx", input="UINT8"), tmp_path / "engine")
    sidecar = path.with_suffix(".json")
    manifest = read_manifest(sidecar)
    spec = manifest.input.model_copy(update={"format": "float32"})
    write_manifest(manifest.model_copy(update={"input": spec}), sidecar)
    said = r"takes \(1, 32, 32, 3\) uint8; its sidecar states \(B, 3, 32, 32\) float32"
    with pytest.raises(ExportError, match=said), library.open(path):
        pass
    assert library.cuda._memory == {}


def test_a_bundle_checks_an_engine_of_bytes(library, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", library.trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", library.cuda)
    monkeypatch.setattr("cuda.bindings.runtime", library.cuda, raising=False)
    engine = library.build(source(tmp_path / "onnx", input="UINT8"), tmp_path / "engine")
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    bundle = write_bundle(tmp_path / "bundle", [engine], pixels, name="tiny")
    assert verify.main([str(bundle)]) == 0
