"""The two containers of `torch.save`, read without making anything of what they describe.

The zip archive is that of torch 1.6 and later; before, a file was a stream of pickles.
"""

import mmap
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO

from compress.foreign.pickle_machine import NotReadableError, Storage, interpret

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before 1.6
LEGACY_PROTOCOL = 1001
MOST_BYTES = 128 * 2**20  # of the pickle, without the tensors

# bytes of an element by the name of its storage class
ELEMENT_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}

# what the readers of zip archives, numbers and pickles raise where a file is damaged
_DAMAGE = (
    ValueError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    struct.error,
    zipfile.BadZipFile,
)


@dataclass(frozen=True)
class TorchFile:
    """The description of a `torch.save` file, and the bytes of its storages on demand.

    Attributes:
        path: the file.
        content: the saved object: plain values, `Made`, `Global` and `Storage`.
        names: every class and function that it names.
        places: where the storages lie: offset and bytes by key.
        size: bytes of the file.
    """

    path: Path
    content: object
    names: frozenset[str]
    places: dict[str, tuple[int, int]]
    size: int

    def check(self, storage: Storage) -> None:
        """Compare the stated size of a storage with what the file holds.

        Raises:
            NotReadableError: it is not in the file, or has another size.
        """
        found = self.places.get(storage.key, (0, -1))[1]
        if found != storage.count * ELEMENT_BYTES[storage.kind]:
            raise NotReadableError(
                f"a block of {storage.count} numbers is stated, and the file holds "
                f"{'none' if found < 0 else f'{found} bytes'}"
            )

    def read(self, storage: Storage, first: int, count: int) -> bytearray:
        """Return the bytes of `count` elements of a storage, from the element `first` on.

        Raises:
            NotReadableError: as `check`.
        """
        self.check(storage)
        size = ELEMENT_BYTES[storage.kind]
        with self.path.open("rb") as file:
            file.seek(self.places[storage.key][0] + first * size)
            found = bytearray(file.read(count * size))
        if len(found) != count * size:
            raise NotReadableError("the file ends within a tensor")
        return found


def is_torch_script(path: Path) -> bool:
    """Whether a zip archive was written by torch.jit.save or an export to TorchScript."""
    if not _is_zip(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(
            name.count("/") == 1 and _tail(name) == "constants.pkl" for name in _names(archive)
        )


def read_torch_file(path: Path) -> TorchFile | None:
    """Interpret a file of `torch.save` without calling anything.

    Returns:
        None for a file of another kind.

    Raises:
        NotReadableError: it is damaged, or larger or deeper than such a file can be.
    """
    try:
        if _is_zip(path):
            return _read_zip(path)
        if path.stat().st_size == 0:
            return None
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            return _read_stream(path, whole)
    except _DAMAGE as error:
        raise NotReadableError(str(error) or type(error).__name__) from error
    except MemoryError as error:
        raise NotReadableError("it asks for more memory than there is") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:  # as torch decides
        return file.read(4) == b"PK\x03\x04"


def _names(archive: zipfile.ZipFile) -> Iterator[str]:
    return (info.filename for info in archive.infolist())


def _tail(name: str) -> str:
    return name.rpartition("/")[2]


def _read_zip(path: Path) -> TorchFile | None:
    with zipfile.ZipFile(path) as archive:
        main = [i for i in archive.infolist() if _tail(i.filename) == "data.pkl"]
        if not main:
            return None
        prefix = main[0].filename.removesuffix("data.pkl")
        places = {}
        for info in archive.infolist():
            if info.compress_type != zipfile.ZIP_STORED:  # torch never compresses
                raise NotReadableError(f"{info.filename} is compressed, as torch.save never does")
            if info.filename.startswith(f"{prefix}data/"):
                places[_tail(info.filename)] = (info.header_offset, info.file_size)
        order = next((i for i in archive.infolist() if i.filename == f"{prefix}byteorder"), None)
        if order is not None and archive.read(order)[:6] != b"little":
            raise NotReadableError("its numbers are in the order of another kind of processor")
        if main[0].file_size > MOST_BYTES:
            raise NotReadableError("what it describes, without its tensors, is too large")
        machine = interpret(BytesIO(archive.read(main[0])))
    size = path.stat().st_size
    with path.open("rb") as file:
        places = {key: (_data_at(file, at), count) for key, (at, count) in places.items()}
    return TorchFile(path, machine.result, frozenset(machine.names), places, size)


def _data_at(file: IO[bytes], header: int) -> int:
    """Return where the bytes of a zip entry begin: after its local header, name and padding."""
    file.seek(header)
    fields = file.read(30)
    if fields[:4] != b"PK\x03\x04":
        raise NotReadableError("an entry of the archive is not where it should be")
    name, extra = struct.unpack("<HH", fields[26:30])
    return int(header + 30 + name + extra)


def _read_stream(path: Path, whole: mmap.mmap) -> TorchFile | None:
    """Read the container before torch 1.6: five pickles, then each storage after its count."""
    try:
        magic, protocol = interpret(whole).result, interpret(whole).result
    except (NotReadableError, *_DAMAGE):
        return None
    if magic != LEGACY_MAGIC or protocol != LEGACY_PROTOCOL:
        return None
    interpret(whole)  # byte order and sizes of integers
    machine = interpret(whole)
    keys, storages = interpret(whole).result, machine.storages
    if not isinstance(keys, list):
        raise NotReadableError("its list of tensors is missing")
    places = {}
    for key in keys:
        if key not in storages:
            raise NotReadableError("a tensor is stored that nothing uses")
        (count,) = struct.unpack("<q", whole.read(8))
        bytes_of = count * ELEMENT_BYTES[storages[key].kind]
        if count < 0 or whole.tell() + bytes_of > len(whole):
            raise NotReadableError("the file ends within a tensor")
        places[key] = (whole.tell(), bytes_of)
        whole.seek(bytes_of, 1)
    return TorchFile(path, machine.result, frozenset(machine.names), places, len(whole))
