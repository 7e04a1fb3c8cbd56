"""The store of a teacher's outputs: a folder of safetensors files that training reads row by row.

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
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from benchmarks.data.division import picture_hashes
from benchmarks.data.image_set import ImageSet
from benchmarks.record import Record
from compress.teaching.maps.part_file import Places, places_of, read_into
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
        sha256: hash of its file.
        source: hash of what it was made from.
        cost_ms: cost of computing it: processor time on a CPU, else time.
        clamped: values beyond the range of float16.
    """

    sha256: str
    source: str
    cost_ms: float
    clamped: int = 0


class Store:
    """A folder of `rows` rows, of which each holds the same named tensors.

    Args:
        folder: folder that holds this store alone.
        rows: how many there are in all.
        sample: one row, (1, ...) of each tensor, whose size decides that of the parts.
        source: returns the hash of what the given rows are made from; a part that was made from
            something else is stale.
    """

    def __init__(
        self, folder: Path, rows: int, sample: Rows, source: Callable[[range], str]
    ) -> None:
        self.folder, self.rows, self.sample = folder, rows, sample
        self.row_bytes = row_bytes(sample)
        self.size = max(1, min(MOST_ROWS, PART_BYTES // max(1, self.row_bytes)))
        self._source = source
        self._places: dict[int, Places] = {}
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
        self._fixed = dict(tensors)
        with contextlib.suppress(OSError):
            if path.is_file() and path.read_bytes() == content:
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
        """Return what is the same for all pictures.

        Raises:
            ToolkitError: it was deleted or damaged after it was written.
        """
        if self._fixed is None:
            path = self.folder / FIXED
            try:
                self._fixed = load(path.read_bytes())
            except (OSError, SafetensorError) as error:
                raise _gone(path, error) from error
        return self._fixed

    def read(self, rows: Sequence[int], wanted: Callable[[str], bool] = bool) -> Rows:
        """Return these rows, (B, ...), of every tensor whose name is `wanted`; all without it.

        Raises:
            ToolkitError: a part was deleted or damaged after it was checked.
        """
        found = {
            name: torch.empty((len(rows), *row.shape[1:]), dtype=row.dtype)
            for name, row in self.sample.items()
            if wanted(name)
        }
        parts: dict[int, list[tuple[int, int]]] = {}
        for index, row in enumerate(rows):
            part, place = divmod(row, self.size)
            parts.setdefault(part, []).append((place, index))
        for part, places in parts.items():
            self._read_part(part, found, places)
        return found

    def _read_part(self, part: int, found: Rows, places: Sequence[tuple[int, int]]) -> None:
        try:
            if part not in self._places:
                self._places[part] = self._places_of(part)
            read_into(self._path(part), self._places[part], found, places)
        except (OSError, ValueError, EOFError, RecursionError) as error:
            raise _gone(self._path(part), error) from error

    def _places_of(self, part: int) -> Places:
        return places_of(self._path(part), len(self.rows_of(part)), self.sample)

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
        path = self._path(part)
        try:
            if not path.is_file() or file_sha256(path) != record.sha256:
                return False
            self._places_of(part)
        except (OSError, ValueError, RecursionError):
            return False
        return True


def row_bytes(sample: Rows) -> int:
    """Return the bytes that one row takes on disk."""
    return sum(value.numel() * value.element_size() for value in sample.values())


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


def _gone(path: Path, error: Exception) -> ToolkitError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return ToolkitError(
        f"{path}: was deleted or damaged since the run began ({reason}); run the same command "
        "again, which makes it anew"
    )
