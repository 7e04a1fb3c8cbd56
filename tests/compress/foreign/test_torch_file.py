"""Files made to harm the reader of `torch.save` files are refused, quickly and without harm."""

import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.foreign import pickle_machine
from compress.foreign.pickle_machine import NotReadableError
from compress.foreign.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL, read_torch_file
from compress.foreign.ultralytics_checkpoint import read_checkpoint
from export.errors import DataError, ToolkitError
from tests.compress.foreign.saved import checkpoint, network, save

START = b"\x80\x02"
HEAD = b"".join(pickle.dumps(one, 2) for one in (LEGACY_MAGIC, LEGACY_PROTOCOL, {"size": 4}))
STORAGE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"


def archive(path: Path, description: bytes, **blocks: bytes) -> Path:
    """A zip archive as torch.save writes it, around a pickle."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", description)
        for key, data in blocks.items():
            file.writestr(f"a/data/{key.removeprefix('_')}", data)
    return path


def stream(path: Path, description: bytes) -> Path:
    path.write_bytes(HEAD + description + pickle.dumps([], 2))
    return path


def tensor(size: int, stride: int, count: int, offset: int = 0) -> bytes:
    """A pickled module that holds one tensor, of stated size, stride and storage."""

    def number(value: int) -> bytes:
        return b"\x8a\x08" + struct.pack("<q", value)

    block = STORAGE + number(count) + b"tQ"
    made = b"ctorch._utils\n_rebuild_tensor_v2\n(" + block + number(offset) + number(size)
    made += b"\x85" + number(stride) + b"\x85\x89}tR"
    words = [b"X" + struct.pack("<i", len(w)) + w for w in (b"_parameters", b"w")]
    module = b"cultralytics.nn.tasks\nDetectionModel\n)\x81}" + words[0] + b"}" + words[1] + made
    return START + module + b"ssb."


def test_a_sound_tensor_is_read(tmp_path: Path) -> None:
    found = read_checkpoint(
        archive(tmp_path / "a.pt", tensor(2, 1, 3, 1), _0=struct.pack("<3f", 1, 2, 3))
    )
    assert found is not None
    assert found.tensors["w"].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("size", "stride", "count", "offset", "message"),
    [
        (4, 1, 3, 0, "reaches beyond"),
        (2, 1, 3, 2, "reaches beyond"),
        (2, 1, 3, -1, "reaches beyond"),
        (2**39, 0, 3, 0, "more values than the file states"),
        (2**62, 1, 2**62, 0, "no valid shape"),
        (2**39, 1, 2**39, 0, "a block of 549755813888 numbers is stated, and the file holds 12"),
        (-2, 1, 3, 0, "no valid shape"),
        (1, 1, 2, 0, "the file holds 12 bytes"),
    ],
)
def test_a_tensor_that_the_file_does_not_hold_is_refused_before_any_memory_is_taken(
    tmp_path: Path, size: int, stride: int, count: int, offset: int, message: str
) -> None:
    file = archive(tmp_path / "a.pt", tensor(size, stride, count, offset), _0=bytes(12))
    for shapes in (True, False):
        with pytest.raises(DataError, match=message):
            read_checkpoint(file, shapes=shapes)


@pytest.mark.parametrize("make", [archive, stream])
@pytest.mark.parametrize(
    "description",
    [
        b"})" + b"\x85" * 50_000 + b"K\x01s.",  # a key whose hash would overflow the stack
        b"})" + b"q\x00h\x00\x86" * 60 + b"K\x01s.",  # ... would take 2 ** 60 steps
        b"}" + b"\x8a\x0b" + (7 * (2**61 - 1)).to_bytes(11, "little") + b"K\x01s.",
        b"\x8e" + struct.pack("<q", 2**62) + b"x.",  # bytes that are not there
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        b"L" + b"9" * 100_000 + b"L\n.",
        b"\x82\x01.",  # copyreg's extensions
        b"\x80\x02Pname\n.",
        b"R.",
        b"\x87.",
        b".",
        b"N(K\x01e.",
        b"}(K\x01u.",
        b"h\x07.",
    ],
)
def test_a_harmful_or_senseless_pickle_is_refused(
    tmp_path: Path, make: Callable[[Path, bytes], Path], description: bytes
) -> None:
    with pytest.raises(NotReadableError):
        read_torch_file(make(tmp_path / "a.pt", START + description))


@pytest.mark.parametrize("description", [b")" + b"\x85" * 50_000, b"]" * 50_000 + b"a" * 49_999])
def test_deep_nesting_is_nothing_special(tmp_path: Path, description: bytes) -> None:
    assert read_torch_file(archive(tmp_path / "a.pt", START + description + b".")) is not None


def test_a_pickle_of_too_many_operations_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pickle_machine, "MOST_OPERATIONS", 1000)
    with pytest.raises(NotReadableError, match="more than 1000 objects"):
        read_torch_file(archive(tmp_path / "a.pt", START + b"N0" * 600 + b"N."))


def test_a_module_that_contains_itself_is_refused(tmp_path: Path) -> None:
    module = b"cultralytics.nn.tasks\nDetectionModel\n)\x81q\x00}X\x08\x00\x00\x00_modules}"
    looped = START + module + b"X\x01\x00\x00\x00ah\x00ssb."
    with pytest.raises(DataError, match="too many or too deep"):
        read_checkpoint(archive(tmp_path / "a.pt", looped))


def test_a_compressed_entry_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/byteorder", b"little" + bytes(10_000_000))
        file.writestr("a/data.pkl", START + b"N.", zipfile.ZIP_STORED)
    with pytest.raises(NotReadableError, match="is compressed"):
        read_torch_file(tmp_path / "a.pt")


def test_numbers_in_the_order_of_another_processor_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as file:
        file.writestr("a/data.pkl", START + b"N.")
        file.writestr("a/byteorder", b"big")
    with pytest.raises(NotReadableError, match="another kind of processor"):
        read_torch_file(tmp_path / "a.pt")


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x02N.", b"\x93NUMPY", bytes(100)])
def test_files_of_other_kinds_are_left_to_others(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pt").write_bytes(content)
    assert read_torch_file(tmp_path / "a.pt") is None


@pytest.mark.parametrize("legacy", [False, True])
def test_a_damaged_checkpoint_is_refused_or_read_never_a_crash(
    tmp_path: Path, legacy: bool
) -> None:
    model, classes = network()
    file = save(tmp_path / "a.pt", checkpoint(model), classes, legacy=legacy)
    whole, draw = file.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        if draw.random() < 0.3:
            del damaged[draw.randrange(len(whole)) :]
        for _ in range(draw.randrange(1, 5)):
            if damaged:
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        file.write_bytes(damaged)
        try:
            read_checkpoint(file)
        except ToolkitError:
            refused += 1
    assert refused > 10
