"""The store on disk: parts, damage, and what a half-written one leaves."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from compress.teaching.maps import store as module
from compress.teaching.maps.store import Store, source_hash
from export.atomic import write_checked_json
from export.errors import ToolkitError

ROWS, SIZE = 10, 4  # three parts, the last one of two rows


def values(rows: range) -> dict[str, Tensor]:
    numbers = torch.tensor(list(rows), dtype=torch.float16)
    return {"a": numbers[:, None].expand(-1, 3).contiguous(), "b": -numbers.float()}


def row_of(size: int) -> dict[str, Tensor]:
    """Return a row of `size` bytes that takes no memory."""
    return {"a": torch.empty((1, size // 2), dtype=torch.float16, device="meta")}


def of(rows: range) -> str:
    return source_hash(list(rows))


def opened(folder: Path, source: Callable[[range], str] = of) -> Store:
    store = Store(folder, ROWS, values(range(1)), source)
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


def test_rows_are_read_as_they_are_in_a_training_in_bf16(filled: Store) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        read = filled.read([9, 0])
    assert read["a"].dtype == torch.float16
    assert torch.equal(read["a"], torch.tensor([[9.0] * 3, [0.0] * 3], dtype=torch.float16))


def test_a_part_is_large_enough_to_matter_and_small_enough_to_repeat(tmp_path: Path) -> None:
    assert Store(tmp_path, 10**6, row_of(100), of).size == module.MOST_ROWS
    assert Store(tmp_path, 10**6, row_of(2**20), of).size == 64
    assert Store(tmp_path, 5, row_of(2**40), of).size == 1


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
    store = Store(tmp_path / "s", 3, row_of(2**30), of)
    store.require_space([0, 1, 2])
    store = Store(tmp_path / "s", 4, row_of(2**30), of)
    with pytest.raises(ToolkitError, match=r"3\.0 GiB are free; lower teach\.views"):
        store.require_space([0, 1, 2, 3])
    assert not store.folder.exists()


def test_a_part_that_vanishes_after_the_check_is_one_message(filled: Store) -> None:
    (filled.folder / "part-00002.safetensors").unlink()
    filled.read([0])
    with pytest.raises(ToolkitError, match=r"part-00002\.safetensors: was deleted .* anew"):
        filled.read([9])


def test_only_what_is_wanted_is_read(filled: Store) -> None:
    assert filled.read([7, 1], lambda name: name == "b").keys() == {"b"}


def test_a_part_that_is_cut_short_in_the_middle_of_a_run_is_one_message(filled: Store) -> None:
    # with its pages mapped into memory, the second access would end the program
    read = filled.read([0, 4])
    os.truncate(filled.folder / "part-00001.safetensors", 150)
    with pytest.raises(
        ToolkitError, match=r"part-00001\.safetensors: .*it ends within row 3 .*anew"
    ):
        filled.read([7, 0])
    assert torch.equal(read["b"], torch.tensor([0.0, -4]))
    assert torch.equal(filled.read([0])["b"], torch.tensor([0.0]))


def forged(content: bytes, store: Store, part: int = 1) -> None:
    """Write a part with a record that says its hash, as somebody who knows the format would."""
    path = store.folder / f"part-{part:05d}.safetensors"
    path.write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "cost_ms": 5.0, "clamped": 0}
    record |= {"source": of(store.rows_of(part))}
    write_checked_json(record, path.with_suffix(".json"))


HEADER = b'{"a":{"dtype":"F16","shape":[4,3],"data_offsets":[0,24]},"b":'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (2**63).to_bytes(8, "little"),
        (2).to_bytes(8, "little") + b"[]",
        (2).to_bytes(8, "little") + b"{}",
        (5).to_bytes(8, "little") + b"\xff" * 5,
        save({"a": torch.zeros(4, 3).half()}),
        save({"a": torch.zeros(4, 3), "b": torch.zeros(4)}),
        save({"a": torch.zeros(4, 4).half(), "b": torch.zeros(4)}),
        save({"a": torch.zeros(3, 3).half(), "b": torch.zeros(3)}),
        save({"a": torch.zeros(4, 3).half(), "b": torch.zeros(4), "c": torch.zeros(1)}),
        save({"a": torch.zeros(4, 3).half(), "b": torch.zeros(4)})[:-1],
        (len(HEADER) + 5).to_bytes(8, "little") + HEADER + b"null}" + bytes(40),
        (len(HEADER) + 3).to_bytes(8, "little") + HEADER + b"{}}" + bytes(40),
        (len(HEADER) + 23).to_bytes(8, "little") + HEADER + b'{"data_offsets":[-16]}}' + bytes(40),
        (4000).to_bytes(8, "little") + b"[" * 4000,
    ],
)
def test_a_part_of_another_form_is_missing_whatever_its_record_says(
    filled: Store, content: bytes
) -> None:
    forged(content, filled)
    again = opened(filled.folder)
    assert again.missing() == [1]
    with pytest.raises(ToolkitError, match="part-00001"):
        again.read([4])


def test_parts_that_are_no_files_are_missing_and_nobody_waits(filled: Store) -> None:
    for name in ("part-00000.safetensors", "part-00001.json", module.FIXED):
        (filled.folder / name).unlink(missing_ok=True)
        os.mkfifo(filled.folder / name)
    assert opened(filled.folder).missing() == [0, 1]
    filled.fix({"x": torch.ones(2)})
    assert torch.equal(opened(filled.folder).fixed()["x"], torch.ones(2))


def test_parts_that_changed_places_are_missing(filled: Store) -> None:
    paths = [filled.folder / f"part-0000{part}.safetensors" for part in (0, 1)]
    for suffix in (".safetensors", ".json"):
        first, second = (path.with_suffix(suffix) for path in paths)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
    assert opened(filled.folder).missing() == [0, 1]
