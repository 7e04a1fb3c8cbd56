import sys

import numpy as np
import pytest
from PIL import Image

from export.artifact.manifest import InputSpec, read_manifest
from export.build import main
from export.pictures.calibration import calibration_batches, calibration_canvases, picture_files
from tests.export.backends.tensorrt import fake_tensorrt
from tests.export.backends.tensorrt.fake_cuda import FakeCuda
from tests.export.backends.tensorrt.test_build import source
from tests.export.tiny import canvases

SPEC = InputSpec(height=32, width=32)


@pytest.fixture
def folder(tmp_path):
    for index in range(5):
        path = tmp_path / "pictures" / f"{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), index * 10, dtype=np.uint8)).save(path)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def test_pictures_are_found_in_subfolders_and_other_files_are_not(folder):
    assert [path.name for path in picture_files(folder)] == [
        "0.png",
        "2.png",
        "4.png",
        "1.png",
        "3.png",
    ]


def test_the_seed_alone_chooses_the_pictures(folder):
    def greys(seed):
        return [int(canvas[0, 0, 0]) for canvas in calibration_canvases(folder, SPEC, 3, seed)]

    assert greys(0) == greys(0)
    assert len({tuple(greys(seed)) for seed in range(6)}) > 1
    assert len(set(greys(0))) == 3


def test_batches_are_named_and_whole():
    batches = list(calibration_batches(canvases(5), SPEC, batch=2))
    assert [batch["images"].shape for batch in batches] == [(2, 3, 32, 32)] * 2


def test_the_command_quantises_from_a_folder(static_model, folder, tmp_path, capsys):
    out = tmp_path / "int8"
    arguments = [str(static_model), "--precision", "int8", "--images", str(folder)]
    assert main([*arguments, "--count", "4", "--out", str(out)]) == 0
    assert "1 node in INT8, 3 kept float" in capsys.readouterr().out
    assert read_manifest(out / "model.json").quantization["images"] == 4


def test_mistakes_end_with_their_code(static_model, tmp_path, capsys):
    arguments = [str(static_model), "--precision", "int8", "--out", str(tmp_path / "int8")]
    assert main([*arguments, "--images", str(tmp_path / "nowhere")]) == 3
    assert "no such folder" in capsys.readouterr().err
    (tmp_path / "x.png").write_bytes(b"broken")
    assert main([*arguments, "--images", str(tmp_path)]) == 3
    assert "x.png" in capsys.readouterr().err
    assert not (tmp_path / "int8").exists()


@pytest.fixture
def installed(monkeypatch):
    """TensorRT 11.4 beside a GPU, both of them fakes."""
    cuda = FakeCuda()
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make("11.4.0.106", cuda))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return cuda


@pytest.mark.usefixtures("installed")
def test_the_command_builds_an_engine(tmp_path, capsys):
    model = source(tmp_path / "onnx", batch=-1)
    out = tmp_path / "engine"
    arguments = [str(model), "--precision", "fp16", "--batch", "1", "2", "4", "--out", str(out)]
    assert main([*arguments, "--workspace-mib", "512", "--optimization-level", "5"]) == 0
    said = capsys.readouterr().out
    assert "1 fp16" in said
    assert "TensorRT 11.4.0.106 and Orin (SM 8.7)" in said
    record = read_manifest(out / "model.json").engine
    assert (record.profile.max, record.workspace_mib, record.optimization_level) == (4, 512, 5)


@pytest.mark.usefixtures("installed")
def test_the_command_says_how_far_several_builds_lie_apart(tmp_path, capsys):
    model = source(tmp_path / "onnx")
    arguments = [str(model), "--precision", "fp16", "--out", str(tmp_path / "engine")]
    assert main([*arguments, "--builds", "2"]) == 0
    assert "of 2 builds the fastest is kept: " in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
def test_the_command_says_what_could_not_be_shown(tmp_path, capsys):
    model = source(tmp_path / "onnx", broken="memory", types="a type of tomorrow")
    assert main([str(model), "--precision", "fp16", "--out", str(tmp_path / "engine")]) == 0
    said = capsys.readouterr().out
    assert "not timed: " in said
    assert "no room on the GPU" in said
    assert "its precision is not proven: " in said


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--precision", "int8"], "is fp16, and int8 was asked for"),
        (["--precision", "fp8"], "give it the fp8 one"),
        (["--precision", "fp16", "--backend", "onnxruntime"], "needs pictures; give --images DIR"),
        (["--precision", "int8", "--backend", "onnxruntime"], "give --images DIR"),
        (["--precision", "fp32", "--backend", "tensorrt", "--images", "x"], "leave out --images"),
        (["--precision", "fp16", "--weakly-typed"], "strongly typed networks only"),
        (["--precision", "fp16", "--batch", "3", "2", "4"], "expected min <= opt <= max"),
    ],
)
def test_what_a_backend_lacks_is_refused_in_one_line(tmp_path, capsys, extra, said):
    model = source(tmp_path / "onnx")
    assert main([str(model), *extra, "--out", str(tmp_path / "engine")]) == 6
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "engine").exists()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("precision", "stated"), [("fp16", "fp16"), ("int8", "int8-trt")])
def test_pictures_make_the_graph_that_the_engine_is_built_of(
    static_model, folder, tmp_path, capsys, precision, stated
):
    """The fake cannot parse real ONNX, so it ends there: with the graph made and no engine."""
    out = tmp_path / "engine"
    arguments = [str(static_model), "--precision", precision, "--backend", "tensorrt"]
    with pytest.raises(ValueError):  # noqa: PT011  what the fake says of bytes that are no JSON
        main([*arguments, "--images", str(folder), "--out", str(out)])
    assert read_manifest(out / "graph" / "model.json").precision == stated
    assert not (out / "model.engine").exists()
    assert main([*arguments[:3], "--images", str(folder), "--out", str(tmp_path / "cpu")]) == 0
    assert read_manifest(tmp_path / "cpu" / "model.json").precision == precision
    capsys.readouterr()


@pytest.mark.usefixtures("installed")
def test_a_gpu_without_fp8_is_named_before_pictures_are_read(static_model, tmp_path, capsys):
    arguments = [str(static_model), "--precision", "fp8", "--out", str(tmp_path / "engine")]
    missing = ["--images", str(tmp_path / "none")]
    assert main([*arguments, "--backend", "tensorrt", *missing]) == 6
    assert "needs a GPU of SM 8.9 or later, and Orin has SM 8.7" in capsys.readouterr().err
    assert main([*arguments, *missing]) == 6  # onnxruntime where nothing else is said
    assert "onnxruntime has no fp8 to be built" in capsys.readouterr().err


def test_without_tensorrt_the_command_says_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    model = source(tmp_path / "onnx")
    assert main([str(model), "--precision", "fp16", "--out", str(tmp_path / "engine")]) == 4
    assert "pip install 'slimdet[tensorrt]'" in capsys.readouterr().err


def test_a_version_that_is_too_old_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make("10.2.0", FakeCuda()))
    model = source(tmp_path / "onnx")
    assert main([str(model), "--precision", "fp16", "--out", str(tmp_path / "engine")]) == 4
    assert "needs TensorRT 10.3 or newer; 10.2.0 is installed" in capsys.readouterr().err


def test_a_precision_that_needs_pictures_says_so_without_naming_another_backend_s_rule(
    static_model, tmp_path, capsys
):
    for precision in ("int8", "fp16"):
        out = tmp_path / precision
        assert main([str(static_model), "--precision", precision, "--out", str(out)]) == 6
        said = capsys.readouterr().err
        assert f"is fp32, and {precision} was asked for" in said
        assert "give --images DIR" in said
