from pathlib import Path

import pytest

from tests.slimdet.shell import run, slimdet

MODULES = [
    "compress.run",
    "compress.doctor",
    "compress.methods",
    "benchmarks.run",
    "benchmarks.compare",
    "benchmarks.studies.gain",
]
PACKAGES = ("compress", "export", "benchmarks")
# Leaves a mark in the folder of the user where it is executed.
MARKS = "import pathlib\npathlib.Path(__file__).with_suffix('.executed').write_text('')\n"


def own(folder: Path, *names: str, package: bool = False) -> Path:
    """Put the user's own modules into a folder; they say so when they are executed."""
    folder.mkdir(exist_ok=True)
    for name in names:
        file = folder / name / "__init__.py" if package else folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(MARKS)
    return folder


def executed(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*.executed")]


@pytest.mark.slow
@pytest.mark.parametrize("package", [False, True], ids=["files", "packages"])
def test_the_command_works_beside_modules_of_the_same_names(tmp_path: Path, package: bool) -> None:
    folder = own(tmp_path / "own", *PACKAGES, package=package)
    for arguments in (["methods", "--help"], ["compare", "a", "b"], ["lint", "none.onnx"]):
        done = slimdet(*arguments, folder=folder, scripts=tmp_path)
        assert "hides" not in done.stderr
        assert "Traceback" not in done.stderr
        assert done.returncode == {"methods": 0, "compare": 1, "lint": 6}[arguments[0]], done.stderr
    assert executed(folder) == []


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("package", [False, True], ids=["file", "package"])
def test_a_module_says_in_a_sentence_what_hides_what(
    tmp_path: Path, module: str, package: bool
) -> None:
    folder = own(tmp_path, "export", package=package)
    done = run("-m", module, "--help", folder=folder)
    assert done.returncode == 4
    assert done.stdout == ""
    hiding = folder / ("export" if package else "export.py")
    assert done.stderr.startswith(f"error: {hiding} hides slimdet's package 'export'")
    assert done.stderr.count("\n") == 1
    assert "use the command `slimdet`" in done.stderr
    assert executed(folder) == []


@pytest.mark.parametrize(
    ("module", "hidden"),
    [
        ("compress.run", "benchmarks"),
        ("benchmarks.studies.gain", "compress"),
    ],
)
def test_no_package_that_is_needed_may_be_hidden(tmp_path: Path, module: str, hidden: str) -> None:
    done = run("-m", module, "lint", "--help", folder=own(tmp_path, hidden))
    assert done.returncode == 4
    assert f"hides slimdet's package {hidden!r}" in done.stderr
    assert executed(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("module", ["export.predict", "export.build", "export.verify"])
def test_the_lowest_package_needs_none_of_the_others(tmp_path: Path, module: str) -> None:
    done = run("-m", module, "--help", folder=own(tmp_path, "compress", "benchmarks"))
    assert done.returncode == 0, done.stderr
    assert executed(tmp_path) == []


def test_a_script_of_the_user_s_gets_the_sentence_as_an_import_error(tmp_path: Path) -> None:
    folder = own(tmp_path, "export")
    (folder / "script.py").write_text(
        "try:\n    import benchmarks.gates\nexcept ImportError as error:\n    print(error)\n"
    )
    done = run("script.py", folder=folder)
    assert "hides slimdet's package 'export'" in done.stdout
    assert executed(folder) == []


@pytest.mark.slow
def test_a_run_of_the_gain_study_finds_what_the_study_has_found(tmp_path: Path) -> None:
    folder = own(tmp_path / "own", *PACKAGES)
    (folder / "recipe.yaml").write_text("schema: [")  # refused before torch is imported
    starts = tmp_path / "starts.py"
    starts.write_text(
        "from pathlib import Path\n"
        "from benchmarks.studies.gain import RunError, Work\n"
        "try:\n    Work(Path('recipe.yaml'), Path('runs'), ()).run('base')\n"
        "except RunError as error:\n    print(error.code, error)\n"
    )
    done = run(starts, folder=folder)
    assert done.stdout.startswith("2 "), done.stderr
    assert "recipe.yaml" in done.stdout
    assert executed(folder) == []


@pytest.mark.slow
def test_a_process_that_measures_latency_finds_what_its_parent_has_found(tmp_path: Path) -> None:
    folder = own(tmp_path / "own", *PACKAGES)
    starts = tmp_path / "starts.py"
    starts.write_text(
        "from benchmarks.timing.repeats import _in_a_fresh_process\n"
        "def work():\n    import export\n    return export.__file__\n"
        "if __name__ == '__main__':\n    print(_in_a_fresh_process(work))\n"
    )
    done = run(starts, folder=folder)
    assert Path(done.stdout.strip()).parent.name == "export", done.stderr
    assert executed(folder) == []


@pytest.mark.slow
def test_a_module_of_the_users_does_not_replace_a_library_of_python_m_slimdet(
    tmp_path: Path,
) -> None:
    folder = own(tmp_path, "yaml", "pydantic", "numpy", *PACKAGES)
    done = run("-m", "slimdet", "check", "none.yaml", folder=folder)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: none.yaml: there is no such recipe file")
    assert executed(folder) == []
