"""ONNX Runtime as an engine, on the CPU, CUDA or TensorRT."""

from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from export.artifact.manifest import Manifest
from export.artifact.sidecar import read_artifact, verify_artifact, verify_numbers
from export.backends.onnxruntime.binding import Binding, require_graph
from export.backends.onnxruntime.cpu import usable_cores
from export.backends.onnxruntime.providers import (
    LOG_ERRORS,
    LOG_NOTHING,
    blank_input,
    open_session,
    placement,
    provider_settings,
    require_placement,
    require_provider,
    run_session,
)
from export.backends.onnxruntime.settings import OnnxRuntimeConfig
from export.detections import OUTPUTS, Candidates, checked_outputs
from export.errors import ExportError
from export.optional import require
from export.pictures.images import Images

if TYPE_CHECKING:
    import onnxruntime


class OnnxRuntimeEngine:
    """One ONNX file with its sidecar. Loads on enter, frees on exit.

    Operators run one after another, each with all threads, which spin between calls. This suits
    measuring, and devices that do nothing else.

    `upload`, `enqueue`, `download` and `synchronize` are the parts of `candidates` on a device with
    a memory of its own, for measuring the model alone and the model with its copies. ONNX Runtime
    waits for the device at the end of `enqueue` by itself.
    """

    def __init__(self, path: Path, config: OnnxRuntimeConfig) -> None:
        """Read the sidecar; weights are loaded on enter.

        Raises:
            ExportError: the sidecar is missing or broken, or describes another kind of artifact.
        """
        self.path = path
        self.config = config
        self.threads = config.threads or usable_cores()
        self._manifest = read_artifact(path, config.precision)
        self.placement: dict[str, int] = {}  # provider -> kernels, on another device than the CPU
        self._session: Any = None
        self._runtime: Any = None
        self._batch: int | None = None
        self._bindings: dict[int, Binding] = {}  # by batch; each keeps its addresses
        self._bound: Binding | None = None  # of the last upload

    @property
    def manifest(self) -> Manifest:
        """Input size, classes and NMS settings of the artifact."""
        return self._manifest

    @property
    def device(self) -> str:
        """Where it computes: cpu, or the device of its provider."""
        return self.config.device

    def candidates(self, images: Images) -> Candidates:
        """Return boxes for (B, 3, H, W) RGB in 0..1, or what else the manifest's input says.

        Raises:
            ExportError: the engine is closed, the images do not have the artifact's shape, or the
                graph fails or gives something else than boxes, scores and labels.
        """
        if self.config.device != "cpu":
            self.upload(images)
            self.enqueue()
            return checked_outputs(self.path, self.download(), len(images), self._manifest)
        session = self._open()
        self._check(images)
        inputs = {self._manifest.input.name: np.ascontiguousarray(images)}
        found = run_session(self.path, session, OUTPUTS, inputs)
        outputs = dict(zip(OUTPUTS, found, strict=True))
        return checked_outputs(self.path, outputs, len(images), self._manifest)

    def upload(self, images: Images) -> None:
        """Copy a batch to the device.

        Raises:
            ExportError: the engine is closed, or the images do not have the artifact's shape.
        """
        session = self._open()
        self._check(images)
        batch = len(images)
        if batch not in self._bindings:
            device = self.config.device
            self._bindings[batch] = Binding(self._runtime, self.path, session, device, images)
        self._bound = self._bindings[batch]
        self._bound.upload(images)

    def enqueue(self) -> None:
        """Run one pass on the uploaded batch."""
        self._uploaded().run()

    def download(self) -> dict[str, NDArray[np.generic]]:
        """Copy every output to the host; return copies by name."""
        return self._uploaded().download()

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self._uploaded().synchronize()

    def __enter__(self) -> Self:
        """Load the model.

        Raises:
            ExportError: the file is not the one the sidecar describes, ONNX Runtime refuses it,
                or the device is not available.
            MissingDependencyError: ONNX Runtime is not installed.
        """
        runtime = require("onnxruntime", extra="onnxruntime", purpose=f"Running {self.path.name}")
        runtime.set_default_logger_severity(LOG_ERRORS)
        verify_artifact(self.path, self._manifest)
        device = self.config.device
        require_provider(self.path, device, runtime.get_available_providers())
        if device != "cpu" and hasattr(runtime, "preload_dlls"):
            runtime.preload_dlls()  # finds CUDA and cuDNN of pip packages
        content = self.path.read_bytes()
        providers = provider_settings(device, self.path.parent, self._profile())
        options = self._options(runtime)
        session = open_session(runtime, self.path, device, content, options, providers)
        verify_numbers(self.path, content)
        if device != "cpu":  # in a second session, since a profiled one is slower
            taken = session.get_inputs()[0]
            blank = {taken.name: blank_input(taken, 1)}
            options = self._options(runtime)
            found = placement(runtime, self.path, content, options, providers, blank)
            self.placement = require_placement(self.path, device, found)
        self._batch = self._check_graph(session)
        if self.config.cuda_graph:
            require_graph(self.path, self._manifest, device, self.placement)
            providers = provider_settings(device, self.path.parent, self._profile(), graph=True)
            options = self._options(runtime)
            session = open_session(runtime, self.path, device, content, options, providers)
        self._session, self._runtime = session, runtime
        return self

    def __exit__(self, *_: object) -> None:
        """Free it."""
        self._bindings, self._bound, self._session = {}, None, None

    def _open(self) -> "onnxruntime.InferenceSession":
        if self._session is None:
            raise ExportError(f"{self.path}: not loaded; use the engine inside a `with` statement")
        return self._session

    def _uploaded(self) -> Binding:
        self._open()
        if self._bound is None:
            raise ExportError(f"{self.path}: nothing was uploaded yet; upload a batch first")
        return self._bound

    def _options(self, runtime: ModuleType) -> "onnxruntime.SessionOptions":
        options = runtime.SessionOptions()
        options.execution_mode = runtime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = optimization_level(runtime, self._manifest.precision)
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = LOG_NOTHING
        options.add_session_config_entry("session.intra_op.allow_spinning", "1")
        if not self.config.cpu_nodes and self.config.device != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _profile(self) -> tuple[str, str, str] | None:
        """Shapes of the smallest, best and largest batch for the TensorRT provider."""
        spec = self._manifest.input
        if not spec.dynamic_batch:
            return None
        rest = "x".join(map(str, spec.picture_shape))
        smallest, largest = f"{spec.name}:1x{rest}", f"{spec.name}:{self.config.max_batch}x{rest}"
        return smallest, smallest, largest

    def _check_graph(self, session: "onnxruntime.InferenceSession") -> int | None:
        """Return the fixed batch size, None for any; refuse a graph with another interface."""
        wanted, inputs = self._manifest.input, session.get_inputs()
        outputs = {output.name for output in session.get_outputs()}
        shape = list(inputs[0].shape) if len(inputs) == 1 else []
        promised = {"boxes", "scores", "labels"} | (
            {"num"} if self._manifest.nms.in_graph else set()
        )
        if (
            shape[1:] != list(wanted.picture_shape)
            or inputs[0].name != wanted.name
            or inputs[0].type != ("tensor(uint8)" if wanted.format == "uint8" else "tensor(float)")
            or outputs != promised
        ):
            raise ExportError(
                f"{self.path}: the graph takes {[(i.name, i.shape, i.type) for i in inputs]} and "
                f"gives {sorted(outputs)}; its sidecar states {wanted.name} (B, "
                f"{', '.join(map(str, wanted.picture_shape))}) {wanted.format} and "
                f"{', '.join(sorted(promised))}. Export the model again"
            )
        return shape[0] if isinstance(shape[0], int) else None

    def _check(self, images: Images) -> None:
        wanted = self._manifest.input
        if (
            images.ndim == 4
            and images.shape[1:] == wanted.picture_shape
            and images.shape[0] > 0
            and self._batch in (None, images.shape[0])
            and images.dtype == wanted.format
        ):
            return
        raise ExportError(
            f"{self.path}: got images {images.shape} {images.dtype}; expected "
            f"({self._batch or 'B'}, {', '.join(map(str, wanted.picture_shape))}) {wanted.format}"
        )


def optimization_level(runtime: ModuleType, precision: str) -> "onnxruntime.GraphOptimizationLevel":
    """Return how much ONNX Runtime may change a graph of this precision.

    An FP8 graph runs as it is: the optimiser moves QuantizeLinear before MaxPool and Transpose,
    which have no FP8 kernels, and then refuses its own graph.
    """
    levels = runtime.GraphOptimizationLevel
    return levels.ORT_DISABLE_ALL if precision == "fp8" else levels.ORT_ENABLE_ALL
