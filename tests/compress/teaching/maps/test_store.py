"""The store on disk: parts, damage, and what a half-written one leaves."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from compress.teaching.maps import store as module
from compress.teaching.maps.store import Store, source_hash
from export.errors import ToolkitError

ROWS, SIZE = 10, 4  # three parts, the last one of two rows


def values(rows: range) -> dict[str, Tensor]:
    numbers = torch.tensor(list(rows), dtype=torch.float16)
    return {"a": numbers[:, None].expand(-1, 3).contiguous(), "b": -numbers.float()}


def of(rows: range) -> str:
    return source_hash(list(rows))


def opened(folder: Path, source: Callable[[range], str] = of) -> Store:
    store = Store(folder, ROWS, 10, source)
    store.size = SIZE
    return store


@pytest.fixture
def filled(tmp_path: Path) -> Store:
    store = opened(tmp_path / "s")
    for part in store.parts:
        store.write(part, values(store.rows_of(part)), cost_ms=5.0, clamped=part)
    return store


def test_rows_come_back_in_the_order_that_is_asked_for(filled: Store) -> None:
    assert filled.missing() == []
    read = opened(filled.folder).read([9, 0, 5, 5])
    assert torch.equal(read["b"], torch.tensor([-9.0, 0, -5, -5]))
    assert read["a"].dtype == torch.float16
    assert read["a"].shape == (4, 3)
    assert [record.clamped for record in filled.records()] == [0, 1, 2]


def test_a_part_is_large_enough_to_matter_and_small_enough_to_repeat(tmp_path: Path) -> None:
    assert Store(tmp_path, 10**6, 100, of).size == module.MOST_ROWS
    assert Store(tmp_path, 10**6, 2**20, of).size == 64
    assert Store(tmp_path, 5, 2**40, of).size == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"!"),
        lambda path: path.write_bytes(b""),
        lambda path: path.with_suffix(".json").unlink(),
        lambda path: path.with_suffix(".json").write_text("{}"),
        lambda path: path.with_suffix(".json").write_text("[" * 10_000),
        lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe"),
    ],
)
def test_a_damaged_part_is_missing_and_the_others_are_kept(
    filled: Store, damage: Callable[[Path], object]
) -> None:
    damage(filled.folder / "part-00001.safetensors")
    assert opened(filled.folder).missing() == [1]


def test_a_part_that_was_made_from_another_picture_is_missing(filled: Store) -> None:
    def changed(rows: range) -> str:
        return source_hash([row if row != 8 else "another" for row in rows])

    assert opened(filled.folder, changed).missing() == [2]


def test_a_part_that_is_half_written_is_missing(filled: Store) -> None:
    path = filled.folder / "part-00000.safetensors"
    path.rename(path.with_name(path.name + ".partial"))
    assert opened(filled.folder).missing() == [0]


def test_a_record_that_was_changed_by_hand_does_not_count(filled: Store) -> None:
    path = filled.folder / "part-00000.json"
    record = json.loads(path.read_text())
    record["content"] = record["content"].replace("5.0", "0.0")
    path.write_text(json.dumps(record))
    assert opened(filled.folder).missing() == [0]


def test_a_disk_without_room_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compress.teaching.maps.store.free_bytes", lambda _: 3 * 2**30)
    store = Store(tmp_path / "s", 3, 2**30, of)
    store.require_space([0, 1, 2])
    store = Store(tmp_path / "s", 4, 2**30, of)
    with pytest.raises(ToolkitError, match=r"3\.0 GiB are free; lower teach\.views"):
        store.require_space([0, 1, 2, 3])
    assert not store.folder.exists()


def test_a_part_that_vanishes_after_the_check_is_one_message(filled: Store) -> None:
    (filled.folder / "part-00002.safetensors").unlink()
    filled.read([0])
    with pytest.raises(ToolkitError, match=r"part-00002\.safetensors: cannot be read .* anew"):
        filled.read([9])
