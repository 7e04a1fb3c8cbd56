"""A part of a store on disk: a safetensors file whose rows are read one by one.

It is not mapped into memory: where another process cuts a mapped file short, the next access ends
the program with a bus error and no message.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

from compress.teaching.maps.rows import Rows

MOST_HEADER = 2**20  # bytes
_CODES = {torch.float16: "F16", torch.float32: "F32"}

Places = dict[str, int]  # name of a tensor -> where in the file its first row begins


def places_of(path: Path, count: int, sample: Rows) -> Places:
    """Read the header of a part.

    Args:
        path: the file.
        count: rows that it must hold.
        sample: one row of every tensor that it must hold, (1, ...).

    Raises:
        ValueError: it holds other tensors, or less than its header says.
        RecursionError: its header is nested a thousand times.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if length > min(MOST_HEADER, size):
            raise ValueError("its header is longer than the file")
        header = json.loads(file.read(length))
    if not isinstance(header, dict) or header.keys() - {"__metadata__"} != sample.keys():
        raise ValueError("it holds other tensors")
    places, first = {}, 8 + length
    for name, row in sample.items():
        begin = _first_byte(header[name])
        end, shape = begin + count * _bytes(row), [count, *row.shape[1:]]
        code = _CODES[row.dtype]
        if begin < 0 or header[name] != {
            "dtype": code,
            "shape": shape,
            "data_offsets": [begin, end],
        }:
            raise ValueError(f"{name} is not {code} of shape {shape}")
        if first + end > size:
            raise ValueError(f"it ends after {size} bytes, in {name}")
        places[name] = first + begin
    return places


def read_into(
    path: Path, places: Mapping[str, int], found: Rows, rows: Iterable[tuple[int, int]]
) -> None:
    """Read rows of a part into tensors.

    Args:
        path: the file.
        places: where the tensors begin.
        found: the tensors to fill, contiguous.
        rows: place of each row in the part, and its place in the tensors.

    Raises:
        EOFError: the file ends before a row does.
        OSError: it cannot be read.
    """
    with path.open("rb", buffering=0) as file:
        for name, tensor in found.items():
            width, first = _bytes(tensor) // len(tensor), places[name]
            target = memoryview(tensor.numpy().reshape(-1).view(np.uint8).data)
            for place, index in rows:
                file.seek(first + place * width)
                part = target[index * width : (index + 1) * width]
                done = file.readinto(part)
                while done < width:
                    more = file.readinto(part[done:])
                    if not more:
                        raise EOFError(f"it ends within row {place} of {name}")
                    done += more


def _first_byte(entry: object) -> int:
    """Return where a tensor begins by its entry of the header; -1 for an entry of another form."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    begin = offsets[0] if isinstance(offsets, list) and offsets else None
    return begin if type(begin) is int and begin >= 0 else -1


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
