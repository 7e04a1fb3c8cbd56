"""Commands test where they will write before any work, and leave nothing behind."""

import os
from pathlib import Path

import pytest

import slimdet
from export.atomic import require_writable
from export.errors import ToolkitError
from slimdet.__main__ import main
from tests.benchmarks.test_run import write_model

# Of each command what it takes besides the target; the models are no models: loading them fails.
WRITING = {
    "predict": ["predict", "broken.onnx", "pictures", "--out"],
    "build": ["build", "broken.onnx", "--precision", "int8", "--images", "pictures", "--out"],
    "bench": ["bench", "broken.onnx", "--data", "nowhere", "--out"],
    "bundle": ["bundle", "broken.onnx", "--golden", "nowhere.png", "--out"],
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file where a folder should go")
    (tmp_path / "broken.onnx").write_text("no graph")
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.parametrize("target", ["taken", "taken/deeper/still", "/proc/1/x"])
@pytest.mark.parametrize("command", WRITING)
def test_a_target_that_cannot_be_written_is_the_first_thing_told(
    here: Path, command: str, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(here)
    assert main([*WRITING[command], target]) == ToolkitError.exit_code
    said = capsys.readouterr().err
    assert said.startswith(f"error: {target}: cannot be written to (")
    assert said.count("\n") == 1
    assert "--out" in said
    assert files(here) == before


@pytest.mark.parametrize("command", WRITING)
def test_a_target_is_not_made_where_the_model_cannot_be_used(here: Path, command: str) -> None:
    before = files(here)
    assert main([*WRITING[command], "new/deeper"]) in {3, 6}
    assert files(here) == before


def test_a_folder_is_tested_and_left_as_it_was(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b", "--out")
    (tmp_path / "there").mkdir()
    require_writable(tmp_path / "there", "--out")
    assert files(tmp_path) == ["there"]


def test_a_name_too_long_is_found(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match="File name too long"):
        require_writable(tmp_path / ("x" * 300), "--runs")


def test_a_link_to_nowhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ToolkitError, match=r"link: cannot be written to \(No such file"):
        require_writable(tmp_path / "link", "--out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_permission_is_found(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ToolkitError, match="Permission denied"):
        require_writable(tmp_path / "x", "--out")


def test_python_s_export_tests_its_folder_too(here: Path) -> None:
    model = write_model(here / "models" / "model.onnx")
    with pytest.raises(ToolkitError, match="taken is no folder"):
        slimdet.export(model, "taken", precision="int8", images="nowhere")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("target", [".", ".."])
def test_a_bundle_needs_a_folder_of_its_own(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WRITING["bundle"], target]) == 6
    assert "needs a folder of its own" in capsys.readouterr().err


def test_a_folder_in_place_of_the_packed_bundle_is_found(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "out.tar.gz").mkdir()
    write_model(here / "model.onnx")
    (here / "model.onnx").rename(here / "broken.onnx")
    (here / "model.json").rename(here / "broken.json")
    assert main([*WRITING["bundle"], "out"]) == 6
    assert "out.tar.gz: is a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("build", "model.onnx"),
        ("build", "model.json"),
        ("build", "graph/model.onnx"),
        ("bench", "report.json"),
        ("bench", "report.html"),
        ("bench", "predictions/x.json"),
    ],
)
def test_a_file_of_another_is_not_replaced(
    here: Path, command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine" / name).parent.mkdir(parents=True)
    (here / "mine" / name).write_text("precious")
    assert main([*WRITING[command], "mine"]) == ToolkitError.exit_code
    assert "was not written by slimdet and would be replaced" in capsys.readouterr().err
    assert (here / "mine" / name).read_text() == "precious"


@pytest.mark.parametrize(
    ("command", "record"),
    [
        ("build", '{"family": "gfl", "precision": "int8"}'),
        ("bench", '{"schema": 1, "rows": []}'),
    ],
)
def test_a_result_of_an_earlier_call_is_no_obstacle(
    here: Path, command: str, record: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine").mkdir()
    (here / "mine" / ("model.json" if command == "build" else "report.json")).write_text(record)
    assert main([*WRITING[command], "mine"]) in {3, 6}
    assert "was not written by slimdet" not in capsys.readouterr().err
