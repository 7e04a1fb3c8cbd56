"""Files that are written whole or not at all."""

import threading
from pathlib import Path

from export.atomic import write_bytes


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
