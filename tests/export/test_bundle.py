import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from export import verify
from export.artifact import bundle_runs
from export.artifact.bundle_content import TOLERANCES
from export.artifact.manifest import NmsSpec, read_manifest, write_manifest
from export.backends.onnxruntime.engine import OnnxRuntimeEngine
from export.backends.tensorrt.trtexec import trtexec_line
from export.bundle import main
from export.bundles.packing import bundle_artifact, pack, write_bundle
from export.detections import Candidates, select_detections
from export.errors import ExportError, MissingDependencyError, ToolkitError
from export.precision.int8 import quantize_int8
from export.predict import main as predict_main
from tests.export.backends.tensorrt import fake_tensorrt
from tests.export.backends.tensorrt.fake_cuda import FakeCuda
from tests.export.backends.tensorrt.test_build import Library, source
from tests.export.precision.fp8_graph import fp8_artifact
from tests.export.tiny import canvases, tiny_manifest


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("golden") / "photograph.png"
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def made(
    static_model: Path,
    dynamic_model: Path,
    photograph: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    int8 = quantize_int8(dynamic_model, canvases(4), folder / "int8")
    models = [dynamic_model, int8, static_model]
    return write_bundle(folder / "bundle", models, photograph, name="tiny", threads=1)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def content(bundle: Path) -> Any:
    return json.loads((bundle / "bundle.json").read_text())


def names(bundle: Path) -> list[str]:
    return [artifact["name"] for artifact in content(bundle)["artifacts"]]


def rewrite(bundle: Path, change) -> None:
    found = content(bundle)
    change(found)
    (bundle / "bundle.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_a_bundle_holds_what_a_device_needs_and_lists_every_file(made):
    files = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    assert content(made)["files"].keys() == files - {"bundle.json"}
    first = names(made)[0]
    assert {
        "README.md",
        "labels.txt",
        "thresholds.json",
        "verify.py",
        "verify_onnxruntime.py",
        "verify_tensorrt.py",
        "build_engines.sh",
        "golden/input.npy",
        "golden/expected.png",
        f"models/{first}/model.onnx",
        f"models/{first}/model.json",
        f"triton/{first}/config.pbtxt",
        f"triton/{first}/1/model.onnx",
    } <= files
    assert (made / "labels.txt").read_text() == "cat\ndog\n"
    assert (made / "verify.py").read_bytes() == Path(verify.__file__).read_bytes()


@pytest.mark.slow
def test_a_bundle_is_verified_with_only_numpy_and_the_runtime(bundle):
    """In an interpreter that finds none of our packages."""
    script = (
        "import runpy, sys\n"
        "sys.argv = ['verify.py', '--json']\n"
        "try:\n"
        f"    runpy.run_path({str(bundle / 'verify.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    heavy = {'export', 'pydantic', 'PIL', 'torch', 'onnx', 'yaml'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=bundle.parent
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert [result["result"] for result in said["results"]] == ["ok"] * 3
    assert "in 4 calls" in said["results"][0]["said"]  # alone, again, and at both ends of a batch
    assert "in 2 calls" in said["results"][2]["said"]  # its batch is fixed to one


def test_what_is_expected_is_what_the_export_package_finds(made):
    picture = np.load(made / "golden" / "input.npy")
    artifact = content(made)["artifacts"][0]
    session = bundle_runs.open_session(
        made / artifact["file"], artifact, "cpu", verify.load_sessions([])
    )
    outputs = session.run(bundle_runs._input([picture], "float32"))
    nms = NmsSpec(iou=0.3)
    ours = bundle_runs.select(outputs, 0, {"mode": "host", "iou": 0.3, "max_detections": 100}, 0.1)
    theirs = select_detections(
        Candidates(
            outputs["boxes"].astype(np.float32),
            outputs["scores"].astype(np.float32),
            outputs["labels"].astype(np.int32),
        ),
        nms,
        0.1,
    )[0]
    assert [label for label, _, _ in ours] == theirs.labels.tolist()
    assert [score for _, score, _ in ours] == theirs.scores.tolist()
    assert np.stack([box for _, _, box in ours]) == pytest.approx(theirs.boxes)


def test_the_two_lists_of_exit_codes_agree():
    assert MissingDependencyError.exit_code == verify.MISSING_PACKAGE
    assert ExportError.exit_code == verify.BROKEN


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-50]), "damaged or changed"),
        (lambda path: path.unlink(), "missing"),
    ],
    ids=["truncated", "missing"],
)
def test_a_damaged_file_is_named_before_anything_runs(bundle, capsys, damage, said):
    path = bundle / content(bundle)["artifacts"][0]["file"]
    damage(path)
    assert verify.main([str(bundle)]) == 6
    error = capsys.readouterr()
    assert f"{path}: {said}" in error.err
    assert error.out == ""
    assert len(error.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda e: e.pop(0), "0 of {n} expected boxes missing, 1 too many"),
        (lambda e: e[0].__setitem__(0, 1 - e[0][0]), "1 of {n} expected boxes missing, 1 too many"),
        (lambda e: e[0].__setitem__(1, e[0][1] - 0.01), "scores differ by up to 0.01"),
        (lambda e: e[0][2].__setitem__(2, e[0][2][2] + 1), "boxes by up to 1 px (allowed 0.5)"),
    ],
    ids=["one too many", "another class", "another score", "another place"],
)
def test_a_difference_is_reported_and_fails(bundle, capsys, change, said):
    count = len(content(bundle)["artifacts"][0]["expected"])
    rewrite(bundle, lambda found: change(found["artifacts"][0]["expected"]))
    assert verify.main([str(bundle)]) == 6
    first, second, _ = capsys.readouterr().out.splitlines()
    assert said.format(n=count - ("too many" in said and "0 of" in said)) in first
    assert second.lstrip().startswith("ok")


def test_one_artifact_can_be_checked_alone(bundle, capsys):
    name = names(bundle)[1]
    assert verify.main([str(bundle), "--artifact", name]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert verify.main([str(bundle), "--artifact", "x"]) == 6
    assert name in capsys.readouterr().err


def test_a_provider_that_does_not_load_fails(bundle, capfd):
    import onnxruntime
    import torch

    if torch.cuda.is_available() and "CUDAExecutionProvider" in (
        onnxruntime.get_available_providers()
    ):
        pytest.skip("this machine has a CUDA device, so the request can be met")
    assert verify.main([str(bundle), "--device", "cuda"]) == 6
    assert "CUDAExecutionProvider was asked for" in capfd.readouterr().out


def test_without_a_runtime_nothing_is_claimed(bundle, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert verify.main([str(bundle)]) == 4
    assert "skipped" in capsys.readouterr().out


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, capsys):
    assert verify.main([str(tmp_path)]) == 6
    assert "no bundle" in capsys.readouterr().err


@pytest.fixture
def engine_bundle(tmp_path, monkeypatch):
    """An engine of TensorRT 10.3 on an Orin, both fakes, and its ONNX file."""
    library = Library("10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", library.trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", library.cuda)
    monkeypatch.setattr("cuda.bindings.runtime", library.cuda, raising=False)
    onnx = source(tmp_path / "onnx", batch=-1)
    profile = {"profile": {"min": 1, "opt": 2, "max": 3}}
    engine = library.build(onnx, tmp_path / "engine-fp16", **profile)
    pixels = np.full((30, 30, 3), 200, dtype=np.uint8)
    return write_bundle(tmp_path / "bundle", [engine], pixels, name="tiny")


def test_an_engine_is_checked_like_an_onnx_file(engine_bundle, capsys):
    assert verify.main([str(engine_bundle)]) == 0
    assert "4 boxes as expected" in (said := capsys.readouterr().out)
    assert "in 4 calls" in said
    assert (engine_bundle / "triton" / "engine-fp16" / "1" / "model.plan").is_file()


def test_the_error_for_an_engine_of_another_machine_gives_the_build_command(
    engine_bundle, capsys, monkeypatch
):
    other = FakeCuda(sm="8.9", gpu="RTX 4090")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make("10.7.0", other))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", other)
    monkeypatch.setattr("cuda.bindings.runtime", other, raising=False)
    assert verify.main([str(engine_bundle)]) == 6
    said = capsys.readouterr().out
    assert (
        "was built for TensorRT 10.3.0 (here: 10.7.0) and a GPU of SM 8.7 (here: 8.9); build it "
        "here with ./build_engines.sh" in said
    )


def test_trtexec_builds_what_the_backend_builds(engine_bundle):
    script = (engine_bundle / "build_engines.sh").read_text()
    assert (
        "# trtexec --onnx=model.onnx --saveEngine=./model.engine --stronglyTyped --noTF32 "
        "--builderOptimizationLevel=3 --minShapes=images:1x3x32x32 --optShapes=images:2x3x32x32 "
        "--maxShapes=images:3x3x32x32 --profilingVerbosity=detailed --skipInference" in script
    )


def test_only_graphs_for_tensorrt_get_a_trtexec_line(made):
    lines = (made / "build_engines.sh").read_text().splitlines()
    built = [line for line in lines if line.startswith("trtexec")]
    assert len(built) == 2  # not the one quantised for CPUs
    assert "int8" not in "".join(built)
    fixed = trtexec_line("models/a/model.onnx", tiny_manifest())
    assert "Shapes" not in fixed
    assert "--saveEngine=models/a/model.engine" in fixed


def test_triton_is_told_shapes_and_types(made):
    dynamic, _, static = names(made)
    text = (made / "triton" / dynamic / "config.pbtxt").read_text()
    assert "max_batch_size: 16" in text
    assert '{ name: "images", data_type: TYPE_FP32, dims: [ 3, 32, 32 ] }' in text
    assert '{ name: "labels", data_type: TYPE_INT32, dims: [ 16 ] }' in text
    text = (made / "triton" / static / "config.pbtxt").read_text()
    assert "max_batch_size: 0" in text
    assert "dims: [ 1, 16, 4 ]" in text


@pytest.mark.slow
def test_the_archive_unpacks_to_the_same_bundle_and_has_the_same_bytes(made, tmp_path):
    archive = made.with_name("bundle.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    assert verify.main([str(tmp_path / "bundle"), "--json"]) == 0
    before = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert hashlib.sha256(pack(made).read_bytes()).hexdigest() == before


def test_a_bundle_predicts_on_own_photographs(made, photograph, tmp_path, capsys):
    out = tmp_path / "seen"
    assert predict_main([str(made), str(photograph), "--draw", "--out", str(out)]) == 0
    assert names(made)[0] in capsys.readouterr().out  # what was used is said
    assert (out / "photograph.jpg").is_file()
    last = names(made)[2]
    arguments = [str(made), str(photograph), "--artifact", last, "--no-draw", "--out", str(out)]
    assert predict_main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["model"] == str(bundle_artifact(made, last))
    assert result["images"][0]["drawn"] is None
    assert predict_main([str(made), str(photograph), "--artifact", "x", "--out", str(out)]) == 6


@pytest.mark.slow
def test_the_command_line_packs(static_model, photograph, tmp_path, capsys):
    out = tmp_path / "packed"
    arguments = [str(static_model), "--golden", str(photograph), "--out", str(out)]
    assert main([*arguments, "--threads", "1"]) == 0
    assert main([*arguments, "--threads", "1"]) == 0  # a bundle is replaced
    capsys.readouterr()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    arguments[-1] = str(tmp_path / "mine")
    assert main(arguments) == 6
    assert "no bundle; choose another folder" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_a_corrupt_golden_picture_ends_with_the_code_of_pictures(static_model, tmp_path, capsys):
    (tmp_path / "golden.jpg").write_bytes(b"no picture")
    arguments = [str(static_model), "--golden", str(tmp_path / "golden.jpg")]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 3
    assert "golden.jpg" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_of_a_bundle_and_keeps_the_old_one(
    bundle, static_model, photograph, monkeypatch
):
    before = (bundle / "bundle.json").read_bytes()

    def no_room(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("export.bundles.packing.shutil.copyfile", no_room)
    with pytest.raises(ToolkitError, match="No space left on device"):
        write_bundle(bundle, [static_model], photograph, name="tiny", threads=1)
    assert (bundle / "bundle.json").read_bytes() == before
    assert not list(bundle.parent.glob("*.partial"))


def test_a_golden_picture_must_have_something_in_it(
    static_model, photograph, tmp_path, monkeypatch
):
    nothing = Candidates(
        np.zeros((1, 2, 4), np.float32), -np.ones((1, 2), np.float32), np.zeros((1, 2), np.int32)
    )
    monkeypatch.setattr(OnnxRuntimeEngine, "candidates", lambda *_: nothing)
    with pytest.raises(ExportError, match="finds nothing in the golden picture"):
        write_bundle(tmp_path / "b", [static_model], photograph, name="x", threads=1)
    with pytest.raises(ExportError, match="no artifacts to pack"):
        write_bundle(tmp_path / "b", [], photograph, name="x")
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_at_the_limit_of_boxes_the_better_half_is_expected(dynamic_model, photograph, tmp_path):
    model = Path(shutil.copytree(dynamic_model.parent, tmp_path / "m")) / "model.onnx"
    manifest = read_manifest(model.with_suffix(".json"))
    limited = manifest.model_copy(update={"nms": NmsSpec(iou=0.9, max_detections=6)})
    write_manifest(limited, model.with_suffix(".json"))
    folder = write_bundle(tmp_path / "b", [model], photograph, name="x", threads=1)
    artifact = content(folder)["artifacts"][0]
    assert len(artifact["expected"]) == 3
    assert artifact["extra_above"] > artifact["expected"][0][1]
    assert verify.main([str(folder), "--json"]) == 0


@pytest.mark.slow
def test_a_model_that_is_hardly_trained_is_checked_by_its_best_boxes(
    static_model, photograph, tmp_path, monkeypatch
):
    for module in ("bundles.packing", "artifact.bundle_content"):
        monkeypatch.setattr(f"export.{module}.MIN_SCORE", 0.9999)
    weak = write_bundle(tmp_path / "b", [static_model], photograph, name="x", threads=1)
    artifact = content(weak)["artifacts"][0]
    best = artifact["expected"][0][1]
    assert artifact["min_score"] == pytest.approx(best / 2, abs=1e-6)
    assert verify.main([str(weak), "--json"]) == 0


def test_every_precision_has_a_tolerance():
    assert set(TOLERANCES) >= {"fp32", "fp16", "int8", "int8-trt", "fp8"}


@pytest.mark.slow
def test_an_fp8_file_is_checked_and_older_gpus_still_get_the_other_engines(
    dynamic_model, photograph, tmp_path
):
    fp8 = fp8_artifact(dynamic_model, tmp_path / "fp8")
    folder = write_bundle(tmp_path / "b", [dynamic_model, fp8], photograph, name="x", threads=1)
    assert verify.main([str(folder), "--json"]) == 0
    built = (folder / "build_engines.sh").read_text().splitlines()[-1]
    assert built.startswith("trtexec --onnx=models/fp8/model.onnx")
    assert '|| echo "no fp8 engine was built: it needs a GPU of SM 8.9' in built
    triton = (folder / "triton" / "fp8" / "config.pbtxt").read_text()
    assert "optimization { graph { level: -1 } }" in triton
    machine = "| fp8 | float32 | client | TensorRT's builder, SM 8.9 and later |"
    assert machine in (folder / "README.md").read_text()
