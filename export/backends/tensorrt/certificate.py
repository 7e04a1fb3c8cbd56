"""Certify the data types of a built engine, from TensorRT's inspector and layer times.

The input is the engine inspector's JSON. Its type names are not documented and its keys differ
between versions 10 and 11, so a type that is not recognised is reported as `other`.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from export.artifact.manifest import Certificate

OTHER = "other"  # not stated or not recognised
# Narrowest first: a fused kernel is called by the narrowest type that it reads.
_TYPES = {
    "fp4": "fp4|float4",
    "int4": "int4",
    "fp8": "fp8|float8|e4m3|fp8e4m3",
    "int8": "int8",
    "fp16": "fp16|half|float16",
    "bf16": "bf16|bfloat16",
    "fp32": "fp32|float|float32",
    "index": "uint8|int32|int64|bool",
}
_PATTERNS = {kind: re.compile(rf"\b({words})\b", re.IGNORECASE) for kind, words in _TYPES.items()}
_COMPUTED = [kind for kind in _TYPES if kind != "index"]
_NARROW = {"fp4", "int4", "fp8", "int8"}
_FORBIDDEN = {"fp32": _NARROW | {"fp16", "bf16"}, "fp16": _NARROW}
_CONVERSIONS = {
    *("reformat", "cast", "quantize", "dequantize", "constant"),
    *("noop", "identity", "shuffle", "signal", "wait"),
}


def engine_certificate(
    inspection: str, times_ms: Mapping[str, float], precision: str, measured_on: str | None
) -> Certificate:
    """Return layers and time per data type; `problem` is set if they do not confirm the precision.

    Args:
        inspection: the engine inspector's JSON.
        times_ms: layer name -> milliseconds, over any number of passes; empty: not measured.
        precision: precision that the engine claims.
        measured_on: the machine of `times_ms`.
    """
    types = layer_types(inspection)
    nodes = Counter(kind for kind in types.values() if kind not in ("conversion", "index"))
    spent: defaultdict[str, float] = defaultdict(float)
    for name, milliseconds in times_ms.items():
        spent[types.get(name, OTHER)] += milliseconds
    total = sum(spent.values())
    return Certificate(
        nodes=dict(sorted(nodes.items())),
        time={kind: round(value / total, 4) for kind, value in sorted(spent.items()) if value},
        measured_on=measured_on if total else None,
        problem=_unproven(precision, nodes),
    )


def contradiction(precision: str, certificate: Certificate) -> str | None:
    """Return, in words, how an engine contradicts its precision; None if it does not.

    Layers that do not state their types could have any, so they prove nothing.
    """
    nodes = certificate.nodes
    listed = ", ".join(f"{count} in {kind}" for kind, count in nodes.items())
    wrong = sorted(_FORBIDDEN.get(precision, set()) & nodes.keys())
    if wrong:
        return f"some of its layers compute in {' and '.join(wrong)} ({listed})"
    if nodes and not nodes.get(precision) and OTHER not in nodes:
        return f"no layer of the engine computes in {precision} ({listed})"
    return None


def layer_types(inspection: str) -> dict[str, str]:
    """Return layer name -> the one data type it computes in, from the inspector's JSON.

    `conversion` for layers that only change or move data, `index` for those that read integers
    alone, `other` where no type is stated.
    """
    try:
        layers = json.loads(inspection)["Layers"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    # With less verbosity a layer is its name alone.
    told = [layer for layer in layers if isinstance(layer, dict)]
    return {str(layer.get("Name", index)): _layer_type(layer) for index, layer in enumerate(told)}


def _layer_type(layer: Mapping[str, object]) -> str:
    if str(layer.get("LayerType", "")).lower() in _CONVERSIONS:
        return "conversion"
    read = _tensor_types(layer.get("Inputs"))
    found = read or _tensor_types(layer.get("Outputs"))
    computed = [kind for kind in _COMPUTED if kind in found]
    if computed:
        return computed[0]
    return "index" if "index" in found and OTHER not in found else OTHER


def _tensor_types(tensors: object) -> set[str]:
    return {_tensor_type(one) for one in tensors} if isinstance(tensors, list) else set()


def _tensor_type(tensor: object) -> str:
    """Read `Row major linear FP16 format` and `Half`: one key in 10, two in 11."""
    if not isinstance(tensor, Mapping):
        return OTHER
    for key in ("Datatype", "DataType", "Format/Datatype", "Format"):
        for kind, pattern in _PATTERNS.items():
            if pattern.search(str(tensor.get(key, ""))):
                return kind
    return OTHER


def _unproven(precision: str, nodes: Mapping[str, int]) -> str | None:
    if nodes.get(precision):
        return None
    if not nodes:
        return "not proven: TensorRT stated no layer's data type"
    return (
        f"not proven: no layer states {precision}, and {nodes.get(OTHER, 0)} state no type known "
        "here"
    )
