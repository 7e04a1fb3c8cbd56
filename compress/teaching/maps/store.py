"""The store of a teacher's outputs: a folder of safetensors files that training maps into memory.

A store of R rows is cut into parts of equal numbers of rows. A part is written whole or not at all,
with its hash beside it, so that an interrupted run goes on after the last part. Nothing but
tensors and JSON is read.

    store.json                what the store holds, for people
    fixed.safetensors         what is the same for all pictures
    part-00000.safetensors    rows 0 to n - 1
    part-00000.json           its hash, what it was made from, and what it cost
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from benchmarks.data.division import picture_hashes
from benchmarks.data.image_set import ImageSet
from benchmarks.record import Record
from compress.teaching.maps.rows import Rows
from export.artifact.manifest import file_sha256
from export.atomic import (
    free_bytes,
    read_checked_json,
    write_bytes,
    write_checked_json,
    write_json,
)
from export.errors import ToolkitError

PART_BYTES = 64 * 2**20
MOST_ROWS = 512  # of a part
FIXED = "fixed.safetensors"


class PartRecord(Record):
    """What is known of a written part.

    Attributes:
        sha256: of its file.
        source: hash of what it was made from.
        cost_ms: of making it: processor time on a CPU, else time.
        clamped: values beyond the range of float16.
    """

    sha256: str
    source: str
    cost_ms: float
    clamped: int = 0


class Store:
    """A folder of `rows` rows, of which each holds the same named tensors.

    Args:
        folder: of this store alone.
        rows: how many there are in all.
        row_bytes: of one row, which decides the size of the parts.
        source: returns the hash of what the given rows are made from; a part that was made from
            something else is stale.
    """

    def __init__(
        self, folder: Path, rows: int, row_bytes: int, source: Callable[[range], str]
    ) -> None:
        self.folder, self.rows, self.row_bytes = folder, rows, row_bytes
        self.size = max(1, min(MOST_ROWS, PART_BYTES // max(1, row_bytes)))
        self._source = source
        self._opened: dict[int, Rows] = {}
        self._fixed: Rows | None = None

    @property
    def bytes(self) -> int:
        """Size of all parts on disk, without their headers."""
        return self.rows * self.row_bytes

    @property
    def parts(self) -> range:
        """The numbers of the parts."""
        return range(-(-self.rows // self.size))

    def rows_of(self, part: int) -> range:
        """Return the rows of a part."""
        return range(part * self.size, min(self.rows, (part + 1) * self.size))

    def missing(self) -> list[int]:
        """Return the parts that are missing, stale or damaged; reads all files."""
        return [part for part in self.parts if not self._is_whole(part)]

    def require_space(self, parts: Sequence[int]) -> None:
        """Check that the disk has room for these parts.

        Raises:
            ToolkitError: it has not.
        """
        need = sum(len(self.rows_of(part)) for part in parts) * self.row_bytes
        free = free_bytes(self.folder)
        if need > free:
            raise ToolkitError(
                f"teach: the teacher's outputs on {self.rows} views take {in_words(need)} in "
                f"{self.folder}, where {in_words(free)} are free; lower teach.views, choose losses "
                "that compare less, or free space"
            )

    def describe(self, content: JsonValue) -> None:
        """Write `store.json`."""
        write_json(content, self.folder / "store.json")

    def fix(self, tensors: Mapping[str, Tensor]) -> None:
        """Write what is the same for all pictures, unless it is there already, undamaged."""
        content, path = save(dict(tensors)), self.folder / FIXED
        with contextlib.suppress(OSError):
            if path.read_bytes() == content:
                return
        write_bytes(content, path)

    def write(self, part: int, rows: Rows, cost_ms: float, clamped: int) -> None:
        """Write a part.

        Raises:
            ToolkitError: the disk is full or the folder may not be written; other parts stay.
        """
        content, path = save(rows), self._path(part)
        write_bytes(content, path)
        record = PartRecord(
            sha256=hashlib.sha256(content).hexdigest(),
            source=self._source(self.rows_of(part)),
            cost_ms=cost_ms,
            clamped=clamped,
        )
        write_checked_json(record.model_dump(mode="json"), path.with_suffix(".json"))

    def records(self) -> Iterator[PartRecord]:
        """Yield the records of all written parts."""
        for part in self.parts:
            record = self._record(part)
            if record is not None:
                yield record

    def fixed(self) -> Rows:
        """Return what is the same for all pictures."""
        if self._fixed is None:
            self._fixed = _mapped(self.folder / FIXED)
        return self._fixed

    def read(self, rows: Sequence[int]) -> Rows:
        """Return these rows of every tensor, (B, ...)."""
        places = [divmod(row, self.size) for row in rows]
        parts = [(self._part(part), place) for part, place in places]
        names = parts[0][0]
        return {name: torch.stack([part[name][place] for part, place in parts]) for name in names}

    def _part(self, part: int) -> Rows:
        if part not in self._opened:
            self._opened[part] = _mapped(self._path(part))
        return self._opened[part]

    def _path(self, part: int) -> Path:
        return self.folder / f"part-{part:05d}.safetensors"

    def _record(self, part: int) -> PartRecord | None:
        found = read_checked_json(self._path(part).with_suffix(".json"))
        try:
            return None if found is None else PartRecord.model_validate(found)
        except ValueError:  # of another version
            return None

    def _is_whole(self, part: int) -> bool:
        record = self._record(part)
        if record is None or record.source != self._source(self.rows_of(part)):
            return False
        try:
            return file_sha256(self._path(part)) == record.sha256
        except OSError:
            return False


def source_hash(content: JsonValue) -> str:
    """Return the hash of what something is made from."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def identities(image_set: ImageSet) -> list[JsonValue]:
    """Return what tells the pictures of a set from others: hashes of files, names of drawn ones.

    Raises:
        DataError: files that cannot be read.
    """
    if image_set.draw is not None:
        return [image.file_name for image in image_set.images]
    return list(picture_hashes(image_set))


def cost_clock(device: str) -> float:
    """Return milliseconds for what teaching costs: processor time of this process on a CPU.

    On other devices it is time, after all queued work.
    """
    if device == "cpu":
        return 1000 * time.process_time()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * time.perf_counter()


def in_words(size: float) -> str:
    """Return a number of bytes in words."""
    for unit, scale in (("GiB", 2**30), ("MiB", 2**20)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size / 2**10:.0f} KiB"


def _mapped(path: Path) -> Rows:
    """Return the tensors of a file, mapped into memory and read when they are used.

    Raises:
        ToolkitError: it was deleted or damaged after it was checked.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (OSError, SafetensorError) as error:
        raise ToolkitError(
            f"{path}: cannot be read ({error}); run the same command again, which makes it anew"
        ) from error
