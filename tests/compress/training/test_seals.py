"""A seal tells what was changed after it was made, and what to delete."""

import shutil
import subprocess
from pathlib import Path

import pytest

from compress.training.seals import (
    check_seal,
    finish_seals,
    seal,
    seal_of,
    write_sealed_json,
)
from export.errors import ToolkitError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "stage"
    (made / "sub").mkdir(parents=True)
    (made / "a.bin").write_bytes(b"abc")
    (made / "sub" / "b ä.txt").write_text("text")
    seal(made)
    return made


def test_what_was_not_changed_passes_beside_new_files(folder: Path) -> None:
    (folder / "new").touch()
    check_seal(folder)


@pytest.mark.parametrize("how", ["other", "empty", "gone"])
@pytest.mark.parametrize("name", ["a.bin", "sub/b ä.txt"])
def test_a_changed_or_missing_file_is_named(folder: Path, name: str, how: str) -> None:
    file = folder / name
    file.write_bytes(b"abd" if how == "other" else b"")
    if how == "gone":
        file.unlink()
    with pytest.raises(ToolkitError) as caught:
        check_seal(folder)
    assert str(caught.value).startswith(f"{file}: ")
    assert f"or delete {folder} to do this stage again" in str(caught.value)


@pytest.mark.parametrize("content", ["", "x", "[]\n", f"{'0' * 64}  other/a.bin\n"])
def test_a_damaged_seal_is_told(folder: Path, content: str) -> None:
    seal_of(folder).write_text(content)
    with pytest.raises(ToolkitError, match=r"record of hashes is damaged.*; delete \S+stage to"):
        check_seal(folder)


def test_without_a_seal_nothing_is_held(folder: Path) -> None:
    seal_of(folder).unlink()
    (folder / "a.bin").unlink()
    check_seal(folder)


def test_a_file_has_a_seal_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "record.json"
    write_sealed_json({"ratio": 2}, file)
    check_seal(file)
    file.write_text('{"ratio": 3}')
    with pytest.raises(ToolkitError, match="to measure it again"):
        check_seal(file, "measure it again")
    write_sealed_json({"ratio": 3}, file)
    check_seal(file)


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_sha256sum_reads_a_seal(folder: Path) -> None:
    command = ["sha256sum", "-c", "--quiet", seal_of(folder).name]
    assert subprocess.run(command, cwd=folder.parent, check=False).returncode == 0


def test_a_seal_that_a_kill_interrupted_is_written(tmp_path: Path) -> None:
    archive, record = tmp_path / "bundle.tar.gz", tmp_path / "inner" / "record.json"
    record.parent.mkdir()
    for file in (archive, record):
        file.write_bytes(b"content")
    seal(record)
    before = seal_of(record).read_text()
    for path in (archive, record, tmp_path / "not there"):
        partial = seal_of(path).with_name(f"{seal_of(path).name}.partial")
        partial.write_bytes(b"half")
    finish_seals(tmp_path)
    check_seal(archive)
    assert seal_of(record).read_text() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        ".bundle.tar.gz.sha256",
        "bundle.tar.gz",
        "inner",
    ]
    archive.write_bytes(b"other")
    with pytest.raises(ToolkitError, match="was changed or damaged"):
        check_seal(archive)
