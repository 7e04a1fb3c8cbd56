import importlib
import subprocess
import sys
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image

import slimdet
from benchmarks.timing.latency import BenchmarkConfig
from export.backends import device_choices
from export.backends.onnxruntime.devices import Device
from slimdet.__main__ import main
from slimdet.commands import COMMANDS
from slimdet.completion import parser_of
from tests.benchmarks.test_run import write_model

ROOT = Path(__file__).resolve().parents[2]
SLOW = {"numpy", "pydantic", "PIL", "yaml", "rich", "torch", "onnx", "onnxruntime", "matplotlib"}


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_names_it_and_loads_nothing_slow(name: str) -> None:
    code = (
        "import sys\nfrom slimdet.__main__ import main\n"
        f"try:\n    main([{name!r}, '--help'])\n"
        "except SystemExit as end:\n    print(end.code, *sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"usage: slimdet {name} ")
    exit_code, *loaded = done.stdout.splitlines()[-1].split()
    assert exit_code == "0"
    assert not set(loaded) & SLOW


@pytest.mark.parametrize(
    "name",
    [
        *("compress.run", "compress.doctor", "compress.methods"),
        *("export.build", "export.predict", "export.verify", "export.bundle", "export.lint"),
        *("benchmarks.run", "benchmarks.compare"),
    ],
)
def test_a_command_started_as_a_module_is_called_by_the_module(name: str, capsys) -> None:
    module = importlib.import_module(name)
    with pytest.raises(SystemExit) as ended:
        module.main(["--help"])
    assert ended.value.code == 0
    called = "verify" if name == "export.verify" else f"python -m {name}"
    assert capsys.readouterr().out.startswith(f"usage: {called} ")


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_without_a_command_all_are_listed(arguments: list[str], capsys) -> None:
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, command in COMMANDS.items():
        assert any(line.split() == [name, *command.purpose.split()] for line in lines), name


def test_the_version_is_the_package_s(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"slimdet {slimdet.__version__}\n"


@pytest.mark.parametrize(("typed", "hint"), [("biuld", "'build'"), ("frobnicate", "run, check,")])
def test_an_unknown_command_is_refused_with_what_there_is(typed: str, hint: str, capsys) -> None:
    assert main([typed]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"no command {typed!r}" in said.err
    assert hint in said.err


def test_the_exit_code_of_a_command_is_kept(tmp_path: Path, capsys) -> None:
    assert main(["check", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err
    assert main(["predict", str(tmp_path / "none.onnx"), str(ROOT)]) == 6


@pytest.mark.slow
def test_a_run_and_a_packed_bundle_are_taken_for_what_is_in_them(tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    model = write_model(run / "export" / "seed0-student-fp32" / "model.onnx")
    (run / "recipe.lock.json").write_text('{"seed": 0}')
    golden = tmp_path / "golden.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(golden)
    bundle = ["bundle", str(run), "--golden", str(golden), "--out", str(run / "bundle")]
    assert main(bundle) == 0
    assert main(["verify", str(run)]) == 0
    assert main(["verify", str(run / "bundle.tar.gz"), "--artifact", "seed0-student-fp32"]) == 0
    assert main(["lint", str(model.parent)]) == 0
    assert main(["lint", str(run)]) == 6
    assert "holds no quantised graph for TensorRT" in capsys.readouterr().err
    out = tmp_path / "out"
    for given in (run, run / "bundle.tar.gz", model.parent):
        assert main(["predict", str(given), str(golden), "--json", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-3].startswith('{"model": ')
    assert main(["predict", str(run), str(golden), "--artifact", "other", "--out", str(out)]) == 6
    assert "holds no artifact 'other', but seed0-student-fp32" in capsys.readouterr().err


def test_an_empty_archive_is_told_in_one_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "e.tar.gz").write_bytes(b"")
    assert main(["verify", str(tmp_path / "e.tar.gz")]) == 6
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be unpacked as a bundle" in said


def test_check_is_run_with_check(tmp_path: Path, capsys) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("schema: 1\nname: x\n")
    assert main(["check", str(recipe)]) == 2
    checked = capsys.readouterr().err
    assert main(["run", str(recipe), "--check"]) == 2
    assert capsys.readouterr().err == checked
    assert not (tmp_path / "runs").exists()


def test_what_help_says_of_other_modules_is_so() -> None:
    assert get_args(Device) == device_choices()
    from benchmarks.run import command_line

    (repeats,) = (a for a in command_line("x")._actions if a.dest == "repeats")
    assert f"(default: {BenchmarkConfig().repeats};" in str(repeats.help)


def test_every_option_of_every_command_is_described() -> None:
    for name, command in COMMANDS.items():
        parser = parser_of(command.target, f"slimdet {name}")
        assert parser.description, name
        assert "%" not in parser.format_help().replace("5%", ""), name
