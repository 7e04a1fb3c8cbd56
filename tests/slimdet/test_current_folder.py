"""Every command in a current folder that was deleted: one message, and no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from slimdet.__main__ import main
from slimdet.commands import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
ARGUMENTS = {
    "run": ["recipe.yaml"],
    "check": ["recipe.yaml"],
    "teach": ["recipe.yaml"],
    "build": ["model.onnx", "--precision", "int8", "--out", "out"],
    "predict": ["model.onnx", "photos"],
    "verify": ["bundle"],
    "bundle": ["model.onnx", "--golden", "golden.png", "--out", "out"],
    "lint": ["model.onnx"],
    "bench": ["model.onnx", "--data", "val.json"],
    "compare": ["before", "after"],
    "completion": ["bash"],
    "export-pt": ["model.safetensors", "--out", "best.pt"],
}
SAID = "error: the current folder cannot be used (No such file or directory)"


@pytest.fixture
def deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()


@pytest.mark.usefixtures("deleted")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_tells_of_it_in_one_message(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, *ARGUMENTS.get(name, [])]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(SAID)
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("deleted")
def test_the_version_and_the_help_are_still_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    with pytest.raises(SystemExit) as ended:
        main(["run", "--help"])
    assert ended.value.code == 0
    assert "usage: slimdet run" in capsys.readouterr().out


@pytest.mark.parametrize(
    "module", [["slimdet", "methods"], ["compress.run", "recipe.yaml"], ["export.lint", "m.onnx"]]
)
def test_a_module_started_there_tells_of_it(module: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "deleted"
    folder.mkdir()
    start = "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); "
    start += "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[2:]])"
    done = subprocess.run(
        [sys.executable, "-c", start, str(folder), *module],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(SAID)
    assert done.stderr.count("\n") == 1
