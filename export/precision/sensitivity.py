"""Quantisation sensitivity of layers, and restoring layers to float until AP holds."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import MADE_FOR_TENSORRT
from export.backends.onnxruntime.cpu import usable_cores
from export.backends.onnxruntime.engine import optimization_level
from export.backends.onnxruntime.providers import (
    LOG_NOTHING,
    open_session,
    provider_settings,
    run_session,
)
from export.engine import open_engine
from export.graph.edit import after_topk, prediction_outputs
from export.optional import require
from export.pictures.images import Images, to_input
from export.precision.quantizer import Quantizer

MOST_LAYERS = 40  # measured one by one; deeper models are measured in groups of neighbours
MOST_RESTORED = 0.75  # share of the layers; beyond it too little would be INT8
_PROBES = 4  # pictures on which a layer's error is measured
_TIMED_CALLS = 15

MeasureAp = Callable[[Path], float | None]  # AP in 0..1 of an artifact on the held-back pictures


@dataclass(frozen=True)
class Layer:
    """Nodes that share one weight, or neighbours in a deep model.

    Attributes:
        name: name of its weight.
        nodes: names of its nodes in the graph.
        noise: power of the error at the predictions over the power of the predictions, when this
            layer alone is INT8.
    """

    name: str
    nodes: tuple[str, ...]
    noise: float = 0.0

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise ratio at the predictions in dB; 200 without noise."""
        return min(200.0, -10 * float(np.log10(max(self.noise, 1e-20))))


@dataclass(frozen=True)
class Held:
    """The outcome of holding AP.

    Attributes:
        nodes: nodes to quantise; None if the drop cannot be held.
        record: sidecar entry: AP before and after, table of layers, cost in time.
    """

    nodes: tuple[str, ...] | None
    record: dict[str, Any]


def limit_drop(
    quantizer: Quantizer,
    canvases: Sequence[NDArray[np.uint8]],
    measure: MeasureAp,
    max_drop: float,
) -> Held:
    """Find the fewest layers to restore to float so that at most `max_drop` AP points are lost.

    Layers are ranked by the error that each alone causes at the predictions; then the number of
    the worst to restore is bisected, with AP measured each time.

    Args:
        quantizer: quantiser of the float model.
        canvases: letterboxed pictures that calibration has not seen.
        measure: AP of an artifact on labelled pictures that calibration has not seen.
        max_drop: AP points (hundredths).
    """
    layers = sorted(
        measure_layers(quantizer, canvases[:_PROBES]), key=lambda layer: layer.noise, reverse=True
    )
    reference = measure(quantizer.source)
    tried: dict[int, float | None] = {}

    def nodes_without(restored: int) -> tuple[str, ...]:
        lost = {name for layer in layers[:restored] for name in layer.nodes}
        return tuple(name for name in quantizer.nodes if name not in lost)

    def drop(restored: int) -> float:
        if restored not in tried:
            with tempfile.TemporaryDirectory(prefix="restore") as scratch:
                path = quantizer.write(Path(scratch), nodes_without(restored), {})
                tried[restored] = measure(path)
        found = tried[restored]
        return 0.0 if reference is None or found is None else 100 * (reference - found)

    low, high = -1, int(MOST_RESTORED * len(layers))  # `low` is known not to hold
    if drop(0) <= max_drop:
        high = 0
    elif drop(high) > max_drop:
        record = _record(layers, len(layers), reference, tried, max_drop)
        return Held(None, record)
    else:
        low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if drop(middle) <= max_drop else (middle, high)
    record = _record(layers, high, reference, tried, max_drop)
    nodes = nodes_without(high)
    if high and quantizer.precision not in MADE_FOR_TENSORRT:
        record["price"] = price(quantizer, nodes, canvases[0])
    return Held(nodes, record)


def measure_layers(quantizer: Quantizer, canvases: Sequence[NDArray[np.uint8]]) -> list[Layer]:
    """Return every layer with the error of quantising it alone, in graph order."""
    layers = _layers(quantizer)
    names = prediction_outputs(quantizer.model)
    late = after_topk(quantizer.model)
    inputs = [to_input([canvas], quantizer.manifest.input) for canvas in canvases]
    wanted = _outputs(quantizer, (), names, inputs)
    measured = []
    for layer in layers:
        # Rows after TopK are ordered by score, so errors before it would permute them.
        comparable = [
            name for name in names if name not in late or set(layer.nodes) & late.keys()
        ] or names
        found = _outputs(quantizer, layer.nodes, comparable, inputs)
        noise = [
            float(np.square(found[name] - wanted[name]).sum() / np.square(wanted[name]).sum())
            if wanted[name].any()
            else 0.0
            for name in comparable
        ]
        measured.append(Layer(layer.name, layer.nodes, float(np.mean(noise))))
    return measured


def price(
    quantizer: Quantizer, nodes: Sequence[str], canvas: NDArray[np.uint8]
) -> dict[str, float]:
    """Return milliseconds per call of the float, the all-INT8 and the chosen artifact."""
    rows = {"fp32_ms": (), "all_int8_ms": quantizer.nodes, "restored_ms": tuple(nodes)}
    images = to_input([canvas], quantizer.manifest.input)
    with tempfile.TemporaryDirectory(prefix="price") as scratch:
        paths = {
            name: quantizer.write(Path(scratch) / name, chosen, {})
            for name, chosen in rows.items()
            if chosen
        } | {"fp32_ms": quantizer.source}
        times: dict[str, list[float]] = {name: [] for name in rows}
        with (
            open_engine(paths["fp32_ms"]) as exact,
            open_engine(paths["all_int8_ms"]) as every,
            open_engine(paths["restored_ms"]) as some,
        ):
            engines = {"fp32_ms": exact, "all_int8_ms": every, "restored_ms": some}
            for turn in range(_TIMED_CALLS + 2):
                for name, engine in engines.items():
                    engine.candidates(images)  # warm the caches after the other engine
                    start = time.perf_counter_ns()
                    engine.candidates(images)
                    if turn >= 2:
                        times[name].append((time.perf_counter_ns() - start) / 1e6)
    found = {name: round(float(np.median(values)), 3) for name, values in times.items()}
    return {
        **found,
        "calls": _TIMED_CALLS,
        "threads": usable_cores(),
        "slower_than_all_int8": round(found["restored_ms"] / found["all_int8_ms"] - 1, 4),
    }


def _layers(quantizer: Quantizer) -> list[Layer]:
    """Group the nodes by the bytes of their weights, in graph order."""
    onnx = require("onnx", extra="train", purpose="Measuring layers")
    stored = {tensor.name: tensor for tensor in quantizer.model.graph.initializer}
    groups: dict[str, tuple[str, list[str]]] = {}
    for node in quantizer.model.graph.node:
        if node.name not in quantizer.nodes:
            continue
        weight = next(name for name in node.input if name in stored)
        values = onnx.numpy_helper.to_array(stored[weight])
        key = hashlib.sha256(str(values.shape).encode() + values.tobytes()).hexdigest()
        label = weight.removeprefix("ConvBnFusion_W_").removeprefix("detector.")
        groups.setdefault(key, (label, []))[1].append(node.name)
    layers = [Layer(label, tuple(nodes)) for label, nodes in groups.values()]
    together = -(-len(layers) // MOST_LAYERS)
    if together == 1:
        return layers
    return [
        Layer(
            f"{part[0].name} .. {part[-1].name}" if len(part) > 1 else part[0].name,
            tuple(name for layer in part for name in layer.nodes),
        )
        for part in (layers[i : i + together] for i in range(0, len(layers), together))
    ]


def _outputs(
    quantizer: Quantizer,
    nodes: Sequence[str],
    names: Sequence[str],
    inputs: Sequence[Images],
) -> dict[str, NDArray[np.float64]]:
    """Return the named tensors over all inputs, with `nodes` quantised."""
    onnx = require("onnx", extra="train", purpose="Measuring layers")
    runtime = require("onnxruntime", extra="onnxruntime", purpose="Measuring layers")
    model = quantizer.graph(nodes)
    del model.graph.output[:]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = LOG_NOTHING
    options.graph_optimization_level = optimization_level(runtime, quantizer.precision)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    file, content = quantizer.source, model.SerializeToString()
    providers = provider_settings("cpu", file.parent, None)
    session = open_session(runtime, file, "cpu", content, options, providers)
    taken = quantizer.manifest.input.name
    found = [run_session(file, session, names, {taken: images}) for images in inputs]
    return {
        name: np.concatenate([np.ravel(values[index]) for values in found]).astype(np.float64)
        for index, name in enumerate(names)
    }


def _record(
    layers: Sequence[Layer],
    restored: int,
    reference: float | None,
    tried: dict[int, float | None],
    max_drop: float,
) -> dict[str, object]:
    def points(ap: float | None) -> float | None:
        return None if ap is None else round(100 * ap, 3)

    return {
        "max_drop": max_drop,
        "held": restored < len(layers),
        "ap_fp32": points(reference),
        "ap_all_quantized": points(tried[0]),
        "ap": points(tried.get(restored)),
        "checks": [{"restored": count, "ap": points(ap)} for count, ap in sorted(tried.items())],
        "layers_restored": restored,
        "layers": [
            {
                "layer": layer.name,
                "nodes": len(layer.nodes),
                "sqnr_db": round(layer.sqnr_db, 2),
                "restored": place < restored,
            }
            for place, layer in enumerate(layers)
        ],
    }
