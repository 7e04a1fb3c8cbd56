"""Load and time built engines, and read the data types of their layers."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from export.artifact.machine import BuildTimes
from export.artifact.manifest import Certificate, InputSpec
from export.backends.tensorrt.certificate import contradiction, engine_certificate
from export.backends.tensorrt.cuda import CudaDevice
from export.backends.tensorrt.plan import Plan
from export.backends.tensorrt.settings import TensorRTConfig
from export.errors import ExportError

if TYPE_CHECKING:
    import tensorrt

_WARMUP_CALLS, _ROUNDS, _CALLS_PER_ROUND = 20, 5, 40  # of each build
_PROFILED_CALLS = 20
_PICTURE = 114  # the grey of the letterbox; no photograph is available


@dataclass(frozen=True)
class Trial:
    """The outcome of trying all builds of one graph.

    Attributes:
        kept: index of the fastest; 0 where they could not be timed.
        times: times of every build; None where they could not be measured.
        certificate: certificate of the kept build.
        inspection: TensorRT's description of its layers.
        layers: its number of layers.
        device_memory_bytes: device memory it needs besides its tensors.
        not_timed: why the GPU could not run it; None where it could.
    """

    kept: int
    times: BuildTimes | None
    certificate: Certificate
    inspection: str
    layers: int
    device_memory_bytes: int
    not_timed: str | None


def try_out(
    trt: ModuleType,
    make_device: Callable[[], CudaDevice],
    path: Path,
    plans: Sequence[bytes],
    spec: InputSpec,
    config: TensorRTConfig,
) -> Trial:
    """Load every plan, keep the fastest and certify its data types.

    The times that selected the fastest plan are biased in its favour; `benchmarks.run` measures its
    latency again. If the GPU cannot run the plans now (it may be busy), only the times are missing.

    Args:
        trt: module `tensorrt`.
        make_device: returns a stream of its own on the GPU.
        path: path of the engine, for messages.
        plans: one per build.
        spec: input of the model.
        config: settings of the builds.

    Raises:
        ExportError: a plan does not load, is less portable than asked, or contradicts its name.
    """
    loaded = [_load(trt, path, content, spec, config) for content in plans]
    kept, times, not_timed = 0, None, None
    layer_times: dict[str, float] = {}
    with ExitStack() as stack:
        for plan in loaded:
            stack.callback(plan.close)
        try:
            for plan in loaded:
                device = make_device()
                stack.callback(device.close)
                stack.callback(plan.close)  # before its device
                plan.prepare(device)
            kept, times, layer_times = _time(loaded, spec, config)
        except ExportError as error:
            not_timed = str(error)
        chosen = loaded[kept]
        engine: tensorrt.ICudaEngine = chosen.engine
        inspection = chosen.inspect()
        where = f"TensorRT {trt.__version__}, layer by layer, batch {_batch(chosen, config)}"
        certificate = engine_certificate(inspection, layer_times, config.precision, where)
        problem = contradiction(config.precision, certificate)
        if problem is not None:
            raise ExportError(
                f"{path}: {config.precision} was asked for, and {problem}; the graph does not "
                "carry that precision"
            )
        return Trial(
            kept=kept,
            times=times,
            certificate=certificate,
            inspection=inspection,
            layers=int(engine.num_layers),
            device_memory_bytes=int(engine.device_memory_size_v2),
            not_timed=not_timed,
        )


def _load(
    trt: ModuleType, path: Path, content: bytes, spec: InputSpec, config: TensorRTConfig
) -> Plan:
    plan = Plan(
        trt,
        path,
        content,
        spec,
        host_code=config.version_compatible,
        cuda_graph=config.cuda_graph,
    )
    engine: tensorrt.ICudaEngine = plan.engine
    alone = engine.hardware_compatibility_level == trt.HardwareCompatibilityLevel.NONE
    if config.portable != "none" and alone:
        raise ExportError(
            f"portable: {config.portable} was asked for, and TensorRT {trt.__version__} built an "
            "engine for this GPU alone; build with portable: none"
        )
    plan.check_interface()
    return plan


def _batch(plan: Plan, config: TensorRTConfig) -> int:
    low, high = plan.batches
    return min(max(config.profile.opt, low), high)


def _time(
    plans: Sequence[Plan], spec: InputSpec, config: TensorRTConfig
) -> tuple[int, BuildTimes | None, dict[str, float]]:
    """Return which plan is the fastest, the times of all, and the layer times of that one.

    The plans take turns, so that changes of the clock affect all of them.
    """
    batch = _batch(plans[0], config)
    blank = np.full((batch, *spec.picture_shape), _PICTURE, dtype=np.uint8)
    images = blank if spec.format == "uint8" else blank.astype(np.float32) / np.float32(255)
    for plan in plans:
        plan.upload(images)
        plan.times_ms(_WARMUP_CALLS)
    kept, times = 0, None
    if len(plans) > 1:
        measured: list[list[float]] = [[] for _ in plans]
        for turn in range(_ROUNDS):
            order = list(zip(plans, measured, strict=True))
            for plan, found in order if turn % 2 == 0 else reversed(order):
                found += plan.times_ms(_CALLS_PER_ROUND)
        medians = [float(np.median(found)) for found in measured]
        kept = int(np.argmin(medians))
        times = BuildTimes(
            p50_ms=tuple(round(median, 4) for median in medians),
            spread=round((max(medians) - min(medians)) / float(np.median(medians)), 4),
            kept=kept,
            calls=_ROUNDS * _CALLS_PER_ROUND,
            batch=batch,
        )
    return kept, times, plans[kept].layer_times_ms(_PROFILED_CALLS)
