"""Find stored numbers of an ONNX file that no working model holds, with numpy alone.

NaN in the weights gives boxes that are above no threshold, so behind NMS in the graph a broken
model looks like one that finds nothing. Devices lack the onnx package, and a bundle holds a copy of
this file, so it reads protobuf's wire format itself and imports nothing of ours.
https://protobuf.dev/programming-guides/encoding, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Operators that multiply by what they take, or divide: an infinite operand makes a broken result.
# Elsewhere infinity has uses, as in masks and limits.
_WEIGHTED = frozenset(
    {"BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GroupNormalization"}
    | {"InstanceNormalization", "LayerNormalization", "MatMul", "PRelu"}
)
_SCALED = frozenset({"QuantizeLinear", "DequantizeLinear"})
# ONNX's number of a type -> how its bytes are read; bits of bfloat16 and FP8 are looked at.
_PLAIN = {1: "<f4", 10: "<f2", 11: "<f8"}
_BITS = {16: "<u2", 17: "<u1", 18: "<u1", 19: "<u1", 20: "<u1"}

Values = NDArray[np.floating]


class _Tensor(NamedTuple):
    name: str
    values: Values | None  # None of whole numbers and texts
    elsewhere: bool  # its numbers lie in another file


@dataclass
class _Stored:
    """What a file stores, and which operators take it."""

    tensors: list[_Tensor] = field(default_factory=list)
    weights: dict[str, str] = field(default_factory=dict)  # name -> operator
    scales: dict[str, str] = field(default_factory=dict)


def broken_number(content: bytes) -> str | None:
    """Return what is wrong with the first unusable number, naming its tensor; None if all are fine.

    Looked for are NaN, infinite weights, scales of quantisation that are not positive, and tensors
    that lie in another file, which the hash of this one does not cover. Subgraphs, functions and
    constants are included.

    Args:
        content: bytes of the ONNX file. Of other bytes it finds nothing: the runtime that is to run
            them refuses them.
    """
    stored = _Stored()
    try:
        for number, value in _fields(memoryview(content)):
            if number == 7:  # the graph
                _read_graph(_bytes(value), stored)
            elif number == 25:  # a function; its nodes are field 7
                for inner, node in _fields(_bytes(value)):
                    if inner == 7:
                        _read_node(_bytes(node), stored)
    except (ValueError, RecursionError):
        return None
    return next((said for one in stored.tensors if (said := _problem(one, stored))), None)


def _problem(tensor: _Tensor, stored: _Stored) -> str | None:
    name, values = tensor.name[:100], tensor.values
    if tensor.elsewhere:
        return f"tensor {name!r} lies in another file, which the model's sha256 does not cover"
    if values is None or not values.size:
        return None
    operator = stored.scales.get(tensor.name)
    if operator is not None and not (np.isfinite(values).all() and (values > 0).all()):
        bad = values[~(np.isfinite(values) & (values > 0))]
        return f"scale {name!r} of {operator} is {bad.flat[0]:g}"
    if np.isnan(values).any():
        return f"tensor {name!r} holds NaN"
    operator = stored.weights.get(tensor.name)
    if operator is not None and np.isinf(values).any():
        return f"tensor {name!r}, an operand of {operator}, holds infinity"
    return None


def _read_graph(graph: memoryview, stored: _Stored) -> None:
    for number, value in _fields(graph):
        if number == 1:
            _read_node(_bytes(value), stored)
        elif number == 5:  # an initialiser
            stored.tensors.append(_tensor(_bytes(value)))
        elif number == 15:  # a sparse one; its values are a tensor
            parts = {part: _bytes(inner) for part, inner in _fields(_bytes(value)) if part == 1}
            if parts:
                stored.tensors.append(_tensor(parts[1]))


def _read_node(node: memoryview, stored: _Stored) -> None:
    inputs: list[str] = []
    outputs: list[str] = []
    operator = ""
    attributes: list[memoryview] = []
    for number, value in _fields(node):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:
            operator = _text(value)
        elif number == 5:
            attributes.append(_bytes(value))
    if operator in _WEIGHTED:
        stored.weights.update(dict.fromkeys(inputs, operator))
    if operator in _SCALED:
        stored.scales.update(dict.fromkeys(inputs[1:2], operator))
    for attribute in attributes:
        _read_attribute(attribute, (outputs or [operator])[0], stored)


def _read_attribute(attribute: memoryview, name: str, stored: _Stored) -> None:
    """Read numbers, tensors and subgraphs of an attribute; those of a constant have its name."""
    numbers: list[Values] = []
    for number, value in _fields(attribute):
        if number in (2, 7):  # one float; several
            numbers.append(np.frombuffer(_bytes(value), dtype="<f4"))
        elif number in (5, 10):
            stored.tensors.append(_tensor(_bytes(value))._replace(name=name))
        elif number in (6, 11):
            _read_graph(_bytes(value), stored)
    if numbers:
        stored.tensors.append(_Tensor(name, np.concatenate(numbers), elsewhere=False))


def _tensor(content: memoryview) -> _Tensor:
    name, kind, elsewhere = "", 0, False
    raw: list[memoryview] = []
    packed: list[int] = []
    for number, value in _fields(content):
        if number == 2 and isinstance(value, int):
            kind = value
        elif number == 8:
            name = _text(value)
        elif number in (4, 9, 10):  # floats, raw bytes, doubles
            raw.append(_bytes(value))
        elif number == 5:  # types of at most 16 bits, one number for each value
            packed += [value] if isinstance(value, int) else _varints(value)
        elif number == 14:
            elsewhere = value == 1
    data = b"".join(raw)
    if packed and kind in (10, *_BITS):
        data = np.array(packed).astype(_BITS.get(kind, "<u2")).tobytes()
    return _Tensor(name, _values(data, kind), elsewhere)


def _values(data: bytes, kind: int) -> Values | None:
    if kind in _PLAIN:
        return np.frombuffer(data, dtype=_PLAIN[kind])
    if kind not in _BITS:
        return None
    bits = np.frombuffer(data, dtype=_BITS[kind])
    known: Values
    if kind == 16:  # bfloat16: the high half of a float32
        known = (bits.astype("<u4") << 16).view("<f4")
        return known
    if kind == 17:  # FP8 E4M3FN
        broken = (bits & 0x7F) == 0x7F
    elif kind == 19:  # E5M2, in which 0x7C is infinity
        broken = (bits & 0x7F) > 0x7C
    else:  # the two without a negative zero, whose code is NaN
        broken = bits == 0x80
    known = np.where(broken, np.float32(np.nan), np.float32(1))
    return known


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if at + size > len(message):
            raise ValueError("a field reaches beyond the end")
        yield key >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise ValueError("a number without end")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _varints(packed: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        found.append(value)
    return found


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes were expected")
    return value


def _text(value: int | memoryview) -> str:
    return bytes(_bytes(value)).decode("utf-8", "replace")
