"""A backend that is one file and one entry of `BACKENDS` is built, opened, timed and bundled."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.run import main as benchmark
from export import verify
from export.artifact.manifest import file_sha256, write_manifest
from export.backends import BACKENDS
from export.backends.interface import Backend
from export.build import main as build
from export.bundles.packing import write_bundle
from export.engine import open_engine
from export.errors import ExportError
from export.predict import main as predict
from tests.benchmarks.bright_boxes import CATEGORY_IDS, bright_manifest, bright_set
from tests.benchmarks.conftest import clock, data
from tests.export.backends.toy import ToyBackend, ToyEngine

__all__ = ["clock", "data"]  # fixtures


@pytest.fixture(autouse=True)
def one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    toy: Backend = ToyBackend()
    monkeypatch.setitem(BACKENDS, "toy", toy)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Something to build of: the toy reads its sidecar alone."""
    path = tmp_path / "onnx" / "model.onnx"
    path.parent.mkdir()
    path.write_bytes(b"a graph")
    of_file = {"backend": "onnxruntime", "artifact": path.name, "sha256": file_sha256(path)}
    manifest = bright_manifest().model_copy(update={**of_file, "category_ids": CATEGORY_IDS})
    write_manifest(manifest, path.with_suffix(".json"))
    return path


def built(source: Path, out: Path) -> Path:
    arguments = ["--backend", "toy", "--precision", "fp32", "--brightness", "0.25"]
    assert build([str(source), *arguments, "--out", str(out)]) == 0
    return out / "model.toy"


@pytest.fixture
def artifact(source: Path, tmp_path: Path) -> Path:
    return built(source, tmp_path / "toy")


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    images = bright_set(1)
    assert images.draw is not None
    Image.fromarray(images.draw(0)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def test_it_is_built_with_its_own_options(source, tmp_path, capsys):
    path = built(source, tmp_path / "here")
    assert json.loads(path.read_text()) == {"brightness": 0.25}
    assert capsys.readouterr().out == f"{path}: a toy\n"


def test_its_precisions_are_those_it_states(source, tmp_path, capsys):
    arguments = ["--backend", "toy", "--precision", "fp16", "--out", str(tmp_path / "toy")]
    assert build([str(source), *arguments]) == 6
    assert "toy has no fp16 to be built; build fp32" in capsys.readouterr().err


def test_it_is_opened_by_the_name_in_the_sidecar(artifact, photograph, tmp_path, capsys):
    assert isinstance(open_engine(artifact), ToyEngine)
    out = tmp_path / "seen"
    arguments = [str(artifact), str(photograph), "--device", "toybox", "--json"]
    assert predict([*arguments, "--out", str(out)]) == 0
    (image,) = json.loads(capsys.readouterr().out)["images"]
    assert [(found["class"], found["box"]) for found in image["detections"]] == [
        ("red", [4, 6, 24, 30])
    ]


def test_without_the_entry_it_is_refused_by_name(artifact, monkeypatch):
    monkeypatch.delitem(BACKENDS, "toy")
    with pytest.raises(ExportError, match="made for toy fp32; this version opens onnxruntime, t"):
        open_engine(artifact)


@pytest.mark.slow  # as many calls as a device is measured by
def test_it_is_benchmarked_on_its_device_by_its_clock(artifact, data, capsys, clock):
    clock.step_ns = 20_000_000
    arguments = [str(artifact), "--data", str(data), "--repeats", "1", "--device", "toybox"]
    assert benchmark([*arguments, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert (row["backend"], row["ap"]["AP"]) == ("toy", pytest.approx(1))
    latency = row["latency_ms"]
    assert latency["device"] == "toybox"
    assert latency["model_scope"] == "by the toy's clock around the pass"
    assert latency["model"]["n"] >= 300  # as on every device of its own


@pytest.fixture
def bundle(artifact: Path, photograph: Path, tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", [artifact], photograph, name="toy")


def test_it_is_described_in_a_bundle(bundle):
    row = next(r for r in (bundle / "README.md").read_text().splitlines() if "| `toy` |" in r)
    assert row.startswith("| `toy` | toy | fp32 |")
    assert row.endswith("| children of bright |")
    assert "echo models/toy/model.toy" in (bundle / "build_engines.sh").read_text().splitlines()
    config = (bundle / "triton" / "toy" / "config.pbtxt").read_text()
    assert 'backend: "python"' in config
    assert config.endswith("# a toy of bright\n")
    assert (bundle / "triton" / "toy" / "1" / "model.py").is_file()
    files = json.loads((bundle / "bundle.json").read_text())["files"]
    assert {"verify.py", "verify_toy.py", "verify_onnxruntime.py"} <= files.keys()


@pytest.mark.slow
def test_a_bundle_of_it_checks_itself_without_any_of_our_packages(bundle):
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['verify.py', '--json']\n"
        "try:\n"
        f"    runpy.run_path({str(bundle / 'verify.py')!r}, run_name='__main__')\n"
        "finally:\n"
        "    ours = {'export', 'benchmarks', 'compress', 'tests'} & set(sys.modules)\n"
        "    assert not ours, ours\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script], capture_output=True, text=True, cwd=bundle
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(done.stdout)["results"]
    assert "1 box as expected" in result["said"]
    assert "in 4 calls" in result["said"]


def test_the_package_verifies_it_too_and_sees_what_differs(bundle, capsys):
    assert verify.main([str(bundle)]) == 0
    path = bundle / "bundle.json"
    content = json.loads(path.read_text())
    content["artifacts"][0]["expected"][0][2][0] += 2
    path.write_text(json.dumps(content))
    assert verify.main([str(bundle)]) == 6
    assert "boxes by up to 2 px" in capsys.readouterr().out


def test_the_package_runs_no_session_file_that_came_with_a_bundle(bundle, capsys, monkeypatch):
    monkeypatch.delitem(BACKENDS, "toy")
    assert verify.main([str(bundle)]) == 4
    assert "needs verify_toy.py" in capsys.readouterr().out


def test_what_it_built_beside_an_onnx_file_is_checked_too(artifact, bundle, capsys):
    """As `build_engines.sh` does on a device: here the ONNX file's place is taken by a text."""
    target = bundle / "models" / "graph"
    target.mkdir()
    content = json.loads((bundle / "bundle.json").read_text())
    graph = {**content["artifacts"][0], "name": "graph", "file": "models/graph/model.onnx"}
    content["artifacts"] = [{**graph, "backend": "onnxruntime"}]
    (target / "model.onnx").write_bytes(b"no graph")
    (target / "model.json").write_text("{}")
    for name in ("model.onnx", "model.json"):
        content["files"][f"models/graph/{name}"] = file_sha256(target / name)
    content["default"] = "graph"
    (bundle / "bundle.json").write_text(json.dumps(content))
    (target / "model.toy").write_bytes(artifact.read_bytes())
    assert verify.main([str(bundle)]) == 6
    refused, built = capsys.readouterr().out.splitlines()
    assert "ONNX Runtime" in refused
    assert built.lstrip().startswith("ok  graph (engine built here): 1 box as expected")
