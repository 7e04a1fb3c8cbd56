"""What only a GPU with TensorRT can show; runs by itself where both are, else says why not."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export import verify
from export.artifact.machine import BatchProfile
from export.artifact.manifest import read_manifest
from export.backends.onnxruntime.engine import OnnxRuntimeEngine
from export.backends.onnxruntime.settings import OnnxRuntimeConfig
from export.backends.tensorrt.build import build_engine
from export.backends.tensorrt.engine import TensorRTEngine
from export.backends.tensorrt.settings import TensorRTConfig
from export.bundles.packing import write_bundle
from export.checks.parity import compare_detections
from export.detections import select_detections
from export.errors import ExportError
from export.graph.uint8_input import take_uint8
from export.pictures.images import to_input, to_tensor
from export.precision.fp16 import cast_half
from export.precision.int8 import Int8Settings, quantize_int8
from tests.export.test_engine import copied
from tests.export.tiny import canvases

pytestmark = pytest.mark.tensorrt

PROFILE = BatchProfile(min=1, opt=2, max=4)


@pytest.fixture(scope="module")
def engine(dynamic_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    config = TensorRTConfig(
        precision="fp32", profile=PROFILE, timing_cache=folder / "timing.cache", workspace_mib=256
    )
    return build_engine(dynamic_model, folder / "fp32", config)


def opened_by(config: OnnxRuntimeConfig | TensorRTConfig, path: Path) -> Any:
    if isinstance(config, TensorRTConfig):
        return TensorRTEngine(path, config)
    return OnnxRuntimeEngine(path, config)


def opened_fp32(path: Path) -> TensorRTEngine:
    return TensorRTEngine(path, fp32())


def found(config: OnnxRuntimeConfig | TensorRTConfig, path: Path, images: Any) -> Any:
    with opened_by(config, path) as opened:
        candidates = opened.candidates(images)
        return select_detections(candidates, opened.manifest.nms, 0.02)


def test_an_fp32_engine_gives_the_detections_of_onnx_runtime(dynamic_model, engine):
    for batch in (1, 2, 4):
        images = to_tensor(canvases(batch))
        reference = found(OnnxRuntimeConfig(threads=1), dynamic_model, images)
        parity = compare_detections(reference, found(fp32(), engine, images))
        assert parity.ok(), parity


def fp32(**settings: Any) -> TensorRTConfig:
    return TensorRTConfig(precision="fp32", **settings)


def test_a_picture_gives_the_same_detections_at_every_position_of_a_batch(engine):
    pictures = to_tensor(canvases(4))
    with opened_fp32(engine) as opened:
        whole = opened.candidates(pictures)
        again = opened.candidates(pictures)
        alone = [opened.candidates(pictures[index : index + 1]) for index in range(4)]
    assert (whole.scores == again.scores).all()
    for index, one in enumerate(alone):
        assert one.scores[0] == pytest.approx(whole.scores[index], abs=1e-4)
        assert one.boxes[0] == pytest.approx(whole.boxes[index], abs=0.05)


def test_a_cuda_graph_gives_the_same_outputs(engine):
    images = to_tensor(canvases(2))
    with opened_fp32(engine) as opened:
        plain = opened.candidates(images)
        for _ in range(4):
            replayed = opened.candidates(images)
        assert opened.graph_refused is None
        assert opened.uses_graph
    assert (plain.scores == replayed.scores).all()
    assert (plain.boxes == replayed.boxes).all()


def test_events_time_no_more_than_the_host_does(engine):
    with opened_fp32(engine) as opened:
        opened.upload(to_tensor(canvases(1)))
        for _ in range(4):  # before the graph is recorded, and after
            start = time.perf_counter_ns()
            spent_ms = opened.pass_ms()
            assert 0 < spent_ms < (time.perf_counter_ns() - start) / 1e6


def test_the_sidecar_tells_the_machine_and_the_layers(engine):
    manifest = read_manifest(engine.with_suffix(".json"))
    record, certificate = manifest.engine, manifest.certificate
    assert record is not None
    assert certificate is not None
    assert record.strongly_typed
    assert "TF32" not in record.flags
    assert record.layers > 0
    assert certificate.nodes.get("fp32"), "the inspector's words for FP32 are not understood"
    assert "other" not in certificate.nodes
    assert certificate.time.get("fp32"), "the profiler's names are not the inspector's"
    assert sum(certificate.time.values()) == pytest.approx(1, abs=0.01)
    assert record.not_timed is None
    assert record.timing_cache_sha256 is not None


def test_the_timing_cache_makes_a_second_build_the_same_layers(dynamic_model, engine, tmp_path):
    cache = engine.parents[1] / "timing.cache"
    config = fp32(profile=PROFILE, timing_cache=cache, workspace_mib=256)
    again = build_engine(dynamic_model, tmp_path / "again", config)
    first, second = (read_manifest(path.with_suffix(".json")) for path in (engine, again))
    assert first.engine.layers == second.engine.layers
    assert first.certificate.nodes == second.certificate.nodes


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_narrow_engine_is_certified_by_its_own_layers(dynamic_model, tmp_path, precision):
    if precision == "fp16":
        model = cast_half(dynamic_model, canvases(2), tmp_path / "graph")
    else:
        model = quantize_int8(
            dynamic_model, canvases(4), tmp_path / "graph", Int8Settings(flavour="tensorrt")
        )
    config = TensorRTConfig(precision=precision, profile=PROFILE)
    certificate = read_manifest(
        build_engine(model, tmp_path / "engine", config).with_suffix(".json")
    ).certificate
    assert certificate is not None
    assert certificate.problem is None, certificate
    assert certificate.time.get(precision), certificate


def test_three_builds_are_timed_and_the_fastest_is_kept(dynamic_model, tmp_path):
    path = build_engine(
        dynamic_model, tmp_path / "x", fp32(profile=PROFILE, workspace_mib=256, builds=3)
    )
    builds = read_manifest(path.with_suffix(".json")).engine.builds
    assert len(builds.p50_ms) == 3
    assert builds.p50_ms[builds.kept] == min(builds.p50_ms)


def test_an_engine_with_uint8_input_equals_the_float_one(dynamic_model, engine, tmp_path):
    folder = tmp_path / "uint8"
    folder.mkdir()
    model = copied(dynamic_model, folder)
    take_uint8(model)
    path = build_engine(model, tmp_path / "engine", fp32(profile=PROFILE))
    spec = read_manifest(model.with_suffix(".json")).input
    pictures = canvases(2)
    reference = found(fp32(), engine, to_tensor(pictures))
    assert compare_detections(reference, found(fp32(), path, to_input(pictures, spec))).ok()


def test_a_version_compatible_engine_loads(dynamic_model, tmp_path):
    config = fp32(profile=PROFILE, version_compatible=True)
    path = build_engine(dynamic_model, tmp_path / "compatible", config)
    images = to_tensor(canvases(1))
    reference = found(OnnxRuntimeConfig(threads=1), dynamic_model, images)
    assert compare_detections(reference, found(config, path, images)).ok()


def test_a_static_engine_takes_its_batch_alone(static_model, tmp_path):
    path = build_engine(static_model, tmp_path / "static", fp32())
    with opened_fp32(path) as opened:
        assert opened.candidates(to_tensor(canvases(1))).scores.shape[0] == 1
        with pytest.raises(ExportError, match="expected \\(1, 3, 32, 32\\)"):
            opened.candidates(to_tensor(canvases(2)))


def test_a_bundle_with_an_engine_verifies(engine, dynamic_model, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    bundle = write_bundle(tmp_path / "bundle", [engine, dynamic_model], pixels, name="tiny")
    assert verify.main([str(bundle)]) == 0


def test_onnx_runtimes_gpu_providers_take_the_convolutions(dynamic_model):
    images = to_tensor(canvases(2))
    reference = found(OnnxRuntimeConfig(threads=1), dynamic_model, images)
    for device in ("cuda", "tensorrt"):
        config = OnnxRuntimeConfig(device=device)
        with opened_by(config, dynamic_model) as opened:
            assert sum(opened.placement.values()) > 0
        assert compare_detections(reference, found(config, dynamic_model, images)).ok()
