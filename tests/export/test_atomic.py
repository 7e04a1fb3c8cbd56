"""Files that are written whole or not at all."""

import shutil
import threading
from pathlib import Path

import pytest

from export.atomic import free_bytes, write_bytes


def test_several_writers_of_one_file_do_not_disturb_each_other(tmp_path: Path) -> None:
    path, failed = tmp_path / "part", list[BaseException]()

    def write(value: int) -> None:
        try:
            for _ in range(8):
                write_bytes(bytes([value]) * 50_000, path)
                content = path.read_bytes()
                assert len(content) == 50_000
                assert len(set(content)) == 1
        except BaseException as error:  # of a thread
            failed.append(error)

    writers = [threading.Thread(target=write, args=(value,)) for value in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failed == []
    assert [one.name for one in tmp_path.iterdir()] == ["part"]


def test_the_free_space_of_a_folder_that_is_not_there_is_that_of_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, found = [], shutil.disk_usage(tmp_path)

    def usage(place: Path) -> object:
        asked.append(place)
        return found._replace(free=123)

    monkeypatch.setattr("shutil.disk_usage", usage)
    monkeypatch.chdir(tmp_path)
    assert free_bytes(tmp_path / "not" / "there") == free_bytes(Path("nor/this")) == 123
    assert asked == [tmp_path, tmp_path]
