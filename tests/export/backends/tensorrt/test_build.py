"""The TensorRT backend against a strict fake, as 10.3 and as 11.4; no hardware is needed."""

import hashlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from export.artifact.machine import BatchProfile
from export.artifact.manifest import file_sha256, read_manifest, write_manifest
from export.backends.tensorrt.build import build_engine
from export.backends.tensorrt.engine import TensorRTEngine
from export.backends.tensorrt.settings import TensorRTConfig
from export.engine import open_engine
from export.errors import ExportError, ToolkitError
from export.pictures.images import to_tensor
from tests.export.backends.tensorrt import fake_tensorrt
from tests.export.backends.tensorrt.fake_cuda import FakeCuda
from tests.export.backends.tensorrt.fake_tensorrt import graph
from tests.export.backends.tensorrt.fake_tensorrt_engine import detect
from tests.export.tiny import canvases, tiny_manifest

VERSIONS = ("10.3.0", "11.4.0.106")


class Library:
    """A fake TensorRT beside a fake CUDA."""

    def __init__(self, version: str, **cuda: Any) -> None:
        self.cuda = FakeCuda(**cuda)
        self.trt = fake_tensorrt.make(version, self.cuda)

    def build(self, source: Path, folder: Path, **settings: Any) -> Path:
        config = TensorRTConfig(**settings)
        path = build_engine(source, folder, config, trt=self.trt, cuda=self.cuda)
        self.cuda.launched = 0  # from here on
        return path

    def open(self, path: Path, **settings: Any) -> Any:
        config = TensorRTConfig(**settings)
        return TensorRTEngine(path, config, trt=self.trt, cuda=self.cuda)


@pytest.fixture(params=VERSIONS)
def library(request: pytest.FixtureRequest) -> Library:
    return Library(request.param)


@pytest.fixture
def old() -> Library:
    return Library("10.3.0")


def source(folder: Path, precision: str = "fp16", **changes: Any) -> Path:
    """Write a graph with its sidecar."""
    content = graph(**changes)
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(content)
    manifest = tiny_manifest(dynamic_batch=changes.get("batch") == -1)
    form = "uint8" if changes.get("input") == "UINT8" else "float32"
    update = {
        "input": manifest.input.model_copy(update={"format": form}),
        "precision": precision,
        "artifact": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_manifest(manifest.model_copy(update=update), folder / "model.json")
    return folder / "model.onnx"


def test_a_plan_is_plain_bytes_with_everything_about_it_in_the_sidecar(library, tmp_path):
    onnx = source(tmp_path / "onnx")
    path = library.build(onnx, tmp_path / "engine", workspace_mib=64)
    assert path.read_bytes().startswith(b"plan")
    manifest = read_manifest(path.with_suffix(".json"))
    assert (manifest.backend, manifest.precision) == ("tensorrt", "fp16")
    assert manifest.sha256 == file_sha256(path)
    record = manifest.engine
    assert record.built_on.tensorrt == library.trt.__version__
    assert record.built_on.gpu == "Orin"
    assert record.built_on.compute_capability == "8.7"
    assert record.built_on.cuda == "12.6"
    assert record.onnx_sha256 == file_sha256(onnx)
    assert record.strongly_typed
    assert record.profile is None
    assert (record.builds, record.not_timed) == (None, None)
    assert (record.workspace_mib, record.device_memory_bytes) == (64, 4096)
    assert {file.name for file in path.parent.iterdir()} == {
        "model.engine",
        "model.json",
        "model.layers.json",
    }


def test_tf32_is_off_unless_asked_for(library, tmp_path):
    onnx = source(tmp_path / "onnx", "fp32", types="FP32")
    for asked in (False, True):
        path = library.build(onnx, tmp_path / f"{asked}", precision="fp32", tf32=asked)
        assert ("TF32" in read_manifest(path.with_suffix(".json")).engine.flags) is asked


def test_an_engine_gives_the_detections_of_its_graph(library, tmp_path):
    path = library.build(source(tmp_path / "onnx"), tmp_path / "engine")
    images = to_tensor(canvases(1))
    with library.open(path) as engine:
        found = engine.candidates(images)
    boxes, scores, labels = detect(images)
    assert (found.boxes == boxes).all()
    assert (found.scores == scores).all()
    assert (found.labels == labels).all()
    assert found.labels.dtype == np.int32


def test_the_graph_is_replayed_from_the_third_call_and_later_results_do_not_touch_earlier_ones(
    library, tmp_path
):
    path = library.build(source(tmp_path / "onnx"), tmp_path / "engine")
    pictures = [to_tensor([canvas]) for canvas in canvases(5)]
    with library.open(path) as engine:
        found = [engine.candidates(images) for images in pictures]
        assert engine.uses_graph
        assert library.cuda.launched == 3
    for images, seen in zip(pictures, found, strict=True):
        assert (seen.scores == detect(images)[1]).all()


def test_a_pass_is_timed_by_events_around_it_alone_with_and_without_a_graph(library, tmp_path):
    path = library.build(source(tmp_path / "onnx", delays_ms=[2]), tmp_path / "engine")
    with library.open(path) as engine:
        engine.upload(to_tensor(canvases(1)))  # the copy was queued first and does not count
        assert [engine.pass_ms() for _ in range(4)] == [2, 2, 2, 2]
        assert engine.uses_graph
        assert library.cuda.launched == 2
    assert library.cuda._events == {}


def test_another_batch_drops_the_graph_and_gives_its_own_results(library, tmp_path):
    profile = BatchProfile(min=1, opt=2, max=4)
    onnx = source(tmp_path / "onnx", batch=-1)
    path = library.build(onnx, tmp_path / "engine", profile=profile)
    assert read_manifest(path.with_suffix(".json")).engine.profile == profile
    with library.open(path) as engine:
        for batch in (2, 2, 2, 2, 4, 1, 1, 1, 2):
            images = to_tensor(canvases(batch))
            assert (engine.candidates(images).scores == detect(images)[1]).all()
        with pytest.raises(ExportError, match=r"expected \(1\.\.4, 3, 32, 32\) float32"):
            engine.candidates(to_tensor(canvases(5)))


def test_without_a_recordable_cuda_graph_the_engine_still_runs(library, tmp_path):
    path = library.build(source(tmp_path / "onnx", broken="capture"), tmp_path / "engine")
    images = to_tensor(canvases(1))
    with library.open(path) as engine:
        for _ in range(5):
            assert (engine.candidates(images).scores == detect(images)[1]).all()
        assert not engine.uses_graph
        assert "CUDA failed while recording: invalidated" in engine.graph_refused


def test_graphs_can_be_switched_off(library, tmp_path):
    path = library.build(source(tmp_path / "onnx"), tmp_path / "engine")
    with library.open(path, cuda_graph=False) as engine:
        for _ in range(4):
            engine.candidates(to_tensor(canvases(1)))
    assert library.cuda.launched == 0


def test_labels_may_be_64_bit_integers(library, tmp_path):
    path = library.build(source(tmp_path / "onnx", labels="INT64"), tmp_path / "engine")
    with library.open(path) as engine:
        assert engine.candidates(to_tensor(canvases(1))).labels.tolist() == [[0, 1, 0, 1]]


def test_all_memory_is_freed(library, tmp_path):
    path = library.build(source(tmp_path / "onnx"), tmp_path / "engine")
    engine = library.open(path)
    for _ in range(2):  # an engine may be entered again
        with engine:
            for _ in range(3):
                engine.candidates(to_tensor(canvases(1)))
        assert library.cuda._memory == {}
        assert library.cuda._streams == {}
    with pytest.raises(ExportError, match="inside a `with` statement"):
        engine.candidates(to_tensor(canvases(1)))


def test_a_timing_cache_is_read_and_written(library, tmp_path):
    onnx, cache = source(tmp_path / "onnx"), tmp_path / "timing.cache"
    for _ in range(2):
        path = library.build(onnx, tmp_path / "engine", timing_cache=cache)
    assert cache.read_text() == "tactic tactic"
    record = read_manifest(path.with_suffix(".json")).engine
    assert record.timing_cache_sha256 == file_sha256(cache)
    cache.write_text("mismatch")
    with pytest.raises(ExportError, match="of another TensorRT or GPU"):
        library.build(onnx, tmp_path / "engine", timing_cache=cache)


@pytest.mark.parametrize(
    ("elsewhere", "said"),
    [
        ({"version": "10.7.0"}, "TensorRT 10.3.0 (here: 10.7.0)"),
        ({"sm": "8.9", "gpu": "RTX 4090"}, "a GPU of SM 8.7, Orin (here: SM 8.9, RTX 4090)"),
    ],
)
def test_an_engine_from_another_machine_is_refused_in_one_sentence(old, tmp_path, elsewhere, said):
    path = old.build(source(tmp_path / "onnx"), tmp_path / "engine")
    other = Library(**{"version": "10.3.0", **elsewhere})
    with pytest.raises(ExportError) as caught, other.open(path):
        pass
    message = str(caught.value)
    assert f"was built for {said}; build it here: python -m export.build model.onnx" in message
    assert "--backend tensorrt --precision fp16" in message
    assert "\n" not in message
    assert other.cuda._streams == {}  # nothing is left behind


def test_another_gpu_of_the_same_kind_runs_it_with_a_warning(old, tmp_path):
    path = old.build(source(tmp_path / "onnx"), tmp_path / "engine")
    other = Library("10.3.0", gpu="Orin Nano")
    with pytest.warns(UserWarning, match="GPU Orin \\(here: Orin Nano\\)"), other.open(path) as e:
        assert e.candidates(to_tensor(canvases(1))).scores.shape == (1, 4)


def test_a_portable_engine_runs_only_on_the_stated_machines(old, tmp_path):
    settings = {"version_compatible": True, "portable": "ampere_plus"}
    path = old.build(source(tmp_path / "onnx"), tmp_path / "engine", **settings)
    later = Library("10.7.0", sm="8.9")
    with warnings.catch_warnings(), later.open(path) as engine:
        assert engine.candidates(to_tensor(canvases(1))).scores.shape == (1, 4)
    for version, sm in (("11.4.0", "8.9"), ("10.7.0", "7.5"), ("10.2.0", "8.9")):
        with pytest.raises(ExportError, match="was built for"), Library(version, sm=sm).open(path):
            pass


def test_portability_that_was_not_built_is_an_error(library, tmp_path):
    onnx = source(tmp_path / "onnx", broken="portable")
    with pytest.raises(ExportError, match="built an engine for this GPU alone"):
        library.build(onnx, tmp_path / "engine", portable="ampere_plus")


def test_the_same_sm_is_a_promise_of_newer_versions_only(tmp_path):
    onnx = source(tmp_path / "onnx")
    assert Library("11.4.0").build(onnx, tmp_path / "new", portable="same_sm").is_file()
    with pytest.raises(ExportError, match="does not know portable: same_sm"):
        Library("10.3.0").build(onnx, tmp_path / "old", portable="same_sm")


@pytest.mark.parametrize(
    ("stated", "asked", "said"),
    [
        ("fp32", "fp16", "is fp32, and fp16 was asked for"),
        ("int8", "int8", "is quantised for CPUs"),
        ("fp16", "int8", "give it the int8-trt one"),
    ],
)
def test_the_graph_must_carry_the_precision(library, tmp_path, stated, asked, said):
    with pytest.raises(ExportError, match=said):
        library.build(source(tmp_path / "onnx", stated), tmp_path / "engine", precision=asked)
    assert not (tmp_path / "engine").exists()


def test_a_sidecar_that_promises_more_than_the_graph_holds_is_found_out(library, tmp_path):
    onnx = source(tmp_path / "onnx", "int8-trt", types="FP32")
    with pytest.raises(
        ExportError, match=r"some of its|no layer of the engine computes in int8 \(1 in fp32\)"
    ):
        library.build(onnx, tmp_path / "engine", precision="int8")
    assert not (tmp_path / "engine").exists()


def test_fp8_needs_the_gpu_for_it(tmp_path):
    onnx = source(tmp_path / "onnx", "fp8", types="FP8")
    with pytest.raises(ExportError, match=r"needs a GPU of SM 8\.9 or later, and Orin has SM 8\.7"):
        Library("11.4.0").build(onnx, tmp_path / "engine", precision="fp8")
    ada = Library("11.4.0", sm="8.9")
    assert ada.build(onnx, tmp_path / "engine", precision="fp8").is_file()


def test_weak_typing_is_there_for_old_versions_and_refused_by_new_ones(tmp_path):
    onnx = source(tmp_path / "onnx", "int8-trt", types="Int8")
    path = Library("10.3.0").build(onnx, tmp_path / "old", precision="int8", weakly_typed=True)
    record = read_manifest(path.with_suffix(".json")).engine
    assert not record.strongly_typed
    assert record.flags == ("FP16", "INT8")
    assert read_manifest(path.with_suffix(".json")).precision == "int8"
    fp32 = source(tmp_path / "fp32", "fp32")
    assert Library("10.3.0").build(fp32, tmp_path / "fp16", weakly_typed=True).is_file()
    with pytest.raises(ExportError, match="builds strongly typed networks only"):
        Library("11.4.0").build(onnx, tmp_path / "new", precision="int8", weakly_typed=True)


@pytest.mark.parametrize(
    ("broken", "said"),
    [("parse", "cannot read it: Compress nms: no importer"), ("build", "Could not find any impl")],
)
def test_what_tensorrt_refuses_is_told_in_its_own_words(library, tmp_path, broken, said):
    with pytest.raises(ExportError, match=said):
        library.build(source(tmp_path / "onnx", broken=broken), tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_weak_typing_is_suggested_only_for_early_strong_typing(tmp_path):
    onnx = source(tmp_path / "onnx", broken="build")
    with pytest.raises(ExportError, match="--weakly-typed builds"):
        Library("10.3.0").build(onnx, tmp_path / "engine")
    with pytest.raises(ExportError) as caught:
        Library("11.4.0").build(onnx, tmp_path / "engine")
    assert "weakly" not in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("memory", "no room on the GPU"),
        ("dynamic", "depends on the picture"),
        ("execute", "an illegal memory access"),
    ],
)
def test_an_engine_that_cannot_run_gives_the_reason_and_frees_everything(
    library, tmp_path, broken, said
):
    path = library.build(source(tmp_path / "onnx", broken=broken), tmp_path / "engine")
    with pytest.raises(ExportError, match=said), library.open(path) as engine:
        engine.candidates(to_tensor(canvases(1)))
    assert library.cuda._memory == {}


def test_the_error_for_lack_of_gpu_memory_quotes_cuda(tmp_path):
    small = Library("11.4.0", memory=1 << 12)
    path = small.build(source(tmp_path / "onnx"), tmp_path / "engine")
    with pytest.raises(ExportError, match=r"reserving 0\.0 MiB: out of memory"), small.open(path):
        pass


def test_a_build_without_a_gpu_is_an_error(tmp_path):
    none = Library("11.4.0", devices=0)
    with pytest.raises(ExportError, match="CUDA driver version is insufficient"):
        none.build(source(tmp_path / "onnx"), tmp_path / "engine")


def test_a_truncated_graph_or_plan_is_not_loaded(library, tmp_path):
    onnx = source(tmp_path / "onnx")
    path = library.build(onnx, tmp_path / "engine")
    for file in (onnx, path):
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ExportError, match="do not belong together"):
        library.build(onnx, tmp_path / "again")
    with pytest.raises(ExportError, match="do not belong together"), library.open(path):
        pass


def test_a_full_disk_leaves_the_engine_that_was_there(library, tmp_path, monkeypatch):
    folder = tmp_path / "engine"
    library.build(source(tmp_path / "onnx"), folder)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    opened = Path.open

    def no_room(path: Path, *rest: Any, **more: Any) -> Any:
        if path.name == "model.json.partial":
            raise OSError(28, "No space left on device")
        return opened(path, *rest, **more)

    monkeypatch.setattr(Path, "open", no_room)
    with pytest.raises(ToolkitError, match="No space left on device"):
        library.build(source(tmp_path / "onnx", types="Half"), folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_images_of_another_shape_or_type_are_refused(library, tmp_path):
    path = library.build(source(tmp_path / "onnx"), tmp_path / "engine")
    wrong = (np.zeros((2, 3, 32, 32), np.float32), np.zeros((1, 3, 32, 32), np.float64))
    with library.open(path) as engine:
        for images in wrong:
            with pytest.raises(ExportError, match=r"expected \(1, 3, 32, 32\) float32"):
                engine.candidates(images)


def test_an_engine_is_opened_by_its_sidecar(old, tmp_path):
    path = old.build(source(tmp_path / "onnx"), tmp_path / "engine")
    engine = open_engine(path)
    assert engine.manifest.engine.built_on.gpu == "Orin"
    with pytest.raises(ExportError, match="open it with precision: fp16"):
        old.open(path, precision="fp32")


def test_batch_sizes_must_be_in_order():
    with pytest.raises(ValidationError, match="expected min <= opt <= max"):
        TensorRTConfig(profile=BatchProfile(min=2, opt=1, max=4))
