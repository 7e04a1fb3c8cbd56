import json
import subprocess
import sys
from pathlib import Path

import pytest

from compress.doctor import disk_space, main
from export.backends.tensorrt.build import build_engine
from export.backends.tensorrt.settings import TensorRTConfig
from tests.export.backends.tensorrt import fake_tensorrt
from tests.export.backends.tensorrt.fake_cuda import FakeCuda
from tests.export.backends.tensorrt.test_build import source

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def room(monkeypatch):
    """A disk with room, whatever the machine's has."""
    monkeypatch.setattr("compress.doctor.free_bytes", lambda _: 60 * 10**9)


@pytest.fixture
def installed(monkeypatch):
    """TensorRT 11.4 beside a GPU, both of them fakes."""
    cuda = FakeCuda()
    trt = fake_tensorrt.make("11.4.0.106", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    return lambda model, folder: build_engine(model, folder, TensorRTConfig(), trt=trt, cuda=cuda)


def findings(capsys, *arguments):
    code = main([*map(str, arguments), "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["exit_code"] == code
    return code, {one["what"]: (one["state"], one["said"]) for one in said["findings"]}


def test_a_bad_line_is_an_error_on_stderr_besides_the_table(capsys):
    assert main(["/nope", "/nor this"]) == 3
    said = capsys.readouterr()
    assert "bad  /nope: no such file" in said.out
    assert said.err == "error: /nope: no such file or folder (and 1 more)\n"


def test_every_part_gets_a_line_and_what_is_optional_may_be_absent(capsys):
    code, found = findings(capsys)
    assert code == 0
    assert list(found) == [
        "python",
        "torch",
        "onnxruntime cpu",
        "onnxruntime cuda",
        "onnxruntime tensorrt",
        "tensorrt",
        "model optimizer",
        "ultralytics",
        "disk",
    ]
    assert found["onnxruntime cpu"][0] == "ok"
    assert all(state in {"ok", "absent"} for state, _ in found.values())


def test_what_is_absent_comes_with_what_to_do(capsys, monkeypatch):
    for name in ("torch", "onnxruntime", "tensorrt", "modelopt"):
        monkeypatch.setitem(sys.modules, name, None)
    code, found = findings(capsys)
    assert code == 0
    assert "pip install 'slimdet[train]'" in found["torch"][1]
    assert "pip install 'slimdet[onnxruntime]'" in found["onnxruntime cpu"][1]
    assert "pip install 'slimdet[tensorrt]'" in found["tensorrt"][1]
    assert "pip install 'slimdet[fp8]'" in found["model optimizer"][1]


@pytest.mark.parametrize(
    ("free_gb", "state", "said"),
    [
        (0.0, "bad", "0.0 GB free for runs, too little for a run; make room, or give --runs"),
        (0.9, "bad", "too little for a run"),
        (1.0, "note", "1.0 GB free for runs, enough for a small run; for large models"),
        (4.9, "note", "make room, or give --runs a folder on another disk"),
        (5.0, "ok", "5.0 GB free for runs"),
    ],
)
def test_too_little_room_for_a_run_is_bad_and_little_is_a_note(free_gb, state, said):
    found = disk_space(free_gb, Path("runs"))
    assert found.state == state
    assert said in found.said


@pytest.mark.parametrize(("free_gb", "expected"), [(0.5, 1), (2, 0)])
def test_the_disk_of_the_runs_decides_the_exit_code(
    capsys, monkeypatch, tmp_path, free_gb, expected
):
    asked = []

    def free(folder):
        asked.append(folder)
        return int(free_gb * 1e9)

    monkeypatch.setattr("compress.doctor.free_bytes", free)
    code, found = findings(capsys, "--runs", tmp_path / "new" / "runs")
    assert code == expected
    assert found["disk"][0] == ("bad" if expected else "note")
    assert asked == [tmp_path / "new" / "runs"]


@pytest.mark.slow
def test_a_recipe_is_looked_at_for_its_data(capsys):
    recipe = ROOT / "recipes" / "quickstart.yaml"
    assert main([str(recipe), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["findings"]
    said = [one["said"] for one in found if one["what"] == str(recipe)]
    assert said[0].startswith("shapes, 6 classes; train 300 pictures")
    assert said[1] == "train: boxes are counted on the first 200 of 300 drawings"
    teacher = [one["said"] for one in found if one["what"] == f"{recipe}, teacher"]
    assert teacher[-1].endswith("split val, 500 drawn pictures")


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("nowhere.yaml", None, 3, "no such file"),
        ("broken.yaml", "schema: [", 2, "broken.yaml"),
        ("notes.txt", "hello", 1, "expected a recipe"),
        ("model.engine", "plan", 6, "sidecar of the model cannot be read"),
    ],
)
def test_what_was_named_and_cannot_be_used_sets_the_exit_code(
    capsys, tmp_path, name, content, code, said
):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    found = findings(capsys, path)
    assert found[0] == code
    assert said in found[1][str(path)][1]


def test_a_folder_without_data_is_named(capsys, tmp_path):
    code, found = findings(capsys, tmp_path)
    assert code == 3
    assert found[str(tmp_path)][0] == "bad"


def test_an_engine_is_held_against_the_machine(capsys, tmp_path, installed, monkeypatch):
    path = installed(source(tmp_path / "onnx"), tmp_path / "engine")
    code, found = findings(capsys, path)
    assert code == 0
    assert found["tensorrt"] == (
        "ok",
        "TensorRT 11.4.0.106 and Orin (SM 8.7), CUDA 12.6, driver for CUDA 12.6",
    )
    assert found[str(path)] == ("ok", "fp16 engine, runs here")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(sm="8.9", gpu="RTX 4090"))
    code, found = findings(capsys, path)
    assert code == 6
    assert (
        "was built for a GPU of SM 8.7, Orin (here: SM 8.9, RTX 4090); build it here"
        in (found[str(path)][1])
    )


def test_asking_loads_no_torch():
    script = (
        "import compress.doctor, sys; sys.exit('torch' in sys.modules or 'yaml' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT).returncode == 0
