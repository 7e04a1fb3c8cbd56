"""A loaded TensorRT plan: named tensors, buffers allocated once, replay as a CUDA graph."""

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import InputSpec
from export.backends.tensorrt.cuda import Buffer, CudaDevice
from export.backends.tensorrt.library import last_errors, layer_clock, listen, load_plugins
from export.errors import ExportError
from export.pictures.images import Images

if TYPE_CHECKING:
    import tensorrt

Shape = tuple[int, ...]

_DTYPES = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
    "UINT8": np.uint8,
}
_CALLS_BEFORE_GRAPH = 2  # the first calls with a shape include setup


@dataclass(frozen=True)
class _Tensor:
    """One input or output of the plan.

    Attributes:
        shape: shape at the largest batch.
        buffer: memory for that shape.
    """

    name: str
    is_input: bool
    dtype: np.dtype[np.generic]
    shape: Shape
    buffer: Buffer


class Plan:
    """One plan, loaded; `prepare` makes it ready to run. For one thread at a time.

    `upload`, `enqueue` and `download` are one pass; `upload` and `enqueue` only queue their work,
    and `synchronize` waits for it. Close it before its device.
    """

    def __init__(
        self,
        trt: ModuleType,
        path: Path,
        content: bytes,
        spec: InputSpec,
        *,
        host_code: bool = False,
        cuda_graph: bool = True,
        advice: str = "",
    ) -> None:
        """Load the plan's bytes.

        Args:
            trt: module `tensorrt`.
            path: plan file, for messages.
            content: its bytes.
            spec: input that the sidecar states.
            host_code: whether the plan may bring code for the host, as version-compatible ones do.
            cuda_graph: whether calls that repeat are recorded and replayed.
            advice: text appended to the error where TensorRT refuses the plan.

        Raises:
            ExportError: TensorRT refuses it.
        """
        self.path = path
        self.graph_refused: str | None = None  # why no CUDA graph could be recorded
        self._trt, self._spec, self._cuda_graph = trt, spec, cuda_graph
        self._logger = listen(trt)
        load_plugins(trt, self._logger)
        runtime: tensorrt.Runtime = trt.Runtime(self._logger)
        if host_code:
            runtime.engine_host_code_allowed = True
        engine: tensorrt.ICudaEngine = runtime.deserialize_cuda_engine(content)
        if engine is None:
            reason = last_errors(self._logger)
            raise ExportError(
                f"{path}: TensorRT {trt.__version__} cannot load it: {reason}{advice}"
            )
        self.engine: Any = engine
        self._runtime: Any = runtime
        self._context: Any = None
        self._clock: Any = None
        self._device: CudaDevice | None = None
        self._tensors: dict[str, _Tensor] = {}
        self._batches = (1, 1)
        self._batch = 0  # that the context is set to
        self._calls = 0  # in a row with this batch
        self._recorded = False

    @property
    def uses_graph(self) -> bool:
        """Whether the next call with the same batch replays a CUDA graph."""
        return self._recorded

    @property
    def batches(self) -> tuple[int, int]:
        """The smallest and the largest batch it takes; known once it is prepared."""
        return self._batches

    def check_interface(self) -> Shape:
        """Return the input's shape, -1 where the batch is open.

        Raises:
            ExportError: the plan has another interface than its sidecar states.
        """
        engine: tensorrt.ICudaEngine = self.engine
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        kind = self._trt.TensorIOMode.INPUT
        inputs = [name for name in names if engine.get_tensor_mode(name) == kind]
        outputs = [name for name in names if name not in inputs]
        wanted = self._spec
        if inputs != [wanted.name] or not {"boxes", "scores", "labels"} <= set(outputs):
            raise ExportError(
                f"{self.path}: the engine takes {inputs} and gives {outputs}; its sidecar states "
                f"{wanted.name} and boxes, scores, labels. Build it again"
            )
        shape = tuple(engine.get_tensor_shape(wanted.name))
        dtype = self._dtype(engine, wanted.name)
        if shape[1:] != wanted.picture_shape or dtype != wanted.format:
            raise ExportError(
                f"{self.path}: the engine takes {shape} {dtype}; its sidecar states (B, "
                f"{', '.join(map(str, wanted.picture_shape))}) {wanted.format}. Build it again"
            )
        return shape

    def prepare(self, device: CudaDevice) -> None:
        """Allocate every tensor at its largest batch and set its address in the context.

        Raises:
            ExportError: there is no room, or the plan has another interface than promised.
        """
        engine: tensorrt.ICudaEngine = self.engine
        context: tensorrt.IExecutionContext = engine.create_execution_context()
        if context is None:
            raise ExportError(
                f"{self.path}: no room on the GPU to run it (it takes "
                f"{engine.device_memory_size_v2 / 2**20:.0f} MiB): {last_errors(self._logger)}"
            )
        self._context, self._device = context, device
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        shape = self.check_interface()
        wanted = self._spec.name
        if shape[0] == -1:
            smallest, _, largest = engine.get_tensor_profile_shape(wanted, 0)
            self._batches = (smallest[0], largest[0])
        else:
            self._batches = (shape[0], shape[0])
        self._shape((self._batches[1], *shape[1:]))
        for name in names:
            self._tensors[name] = self._reserve(engine, device, name)
            if not context.set_tensor_address(name, self._tensors[name].buffer.device):
                raise ExportError(f"{self.path}: {name}: {last_errors(self._logger)}")

    def upload(self, images: Images) -> None:
        """Set the batch and queue its copy to the GPU.

        Raises:
            ExportError: the batch does not fit the plan.
        """
        device, tensor = self._open(), self._tensors[self._spec.name]
        self._check(images, tensor)
        if len(images) != self._batch:
            self._set_batch(len(images))
        tensor.buffer.view(tensor.dtype, images.shape)[...] = images
        device.upload(tensor.buffer, images.nbytes)

    def enqueue(self) -> None:
        """Queue one pass on the uploaded batch."""
        self._begin_pass()
        self._queue_pass()

    def pass_ms(self) -> float:
        """Run one pass on the uploaded batch; return its milliseconds by CUDA events."""
        self._begin_pass()
        return self._open().span_ms(self._queue_pass)

    def download(self) -> dict[str, NDArray[np.generic]]:
        """Queue the copy of every output to the host, wait, and return copies by name."""
        device = self._open()
        outputs = [tensor for tensor in self._tensors.values() if not tensor.is_input]
        shapes = {tensor.name: (self._batch, *tensor.shape[1:]) for tensor in outputs}
        for tensor in outputs:
            size = int(np.prod(shapes[tensor.name], dtype=np.int64)) * tensor.dtype.itemsize
            device.download(tensor.buffer, size)
        device.synchronize()
        return {
            tensor.name: tensor.buffer.view(tensor.dtype, shapes[tensor.name]).copy()
            for tensor in outputs
        }

    def synchronize(self) -> None:
        """Wait for all that was queued."""
        self._open().synchronize()

    def times_ms(self, calls: int) -> list[float]:
        """Return the milliseconds of passes on the uploaded batch, without copies."""
        return [self.pass_ms() for _ in range(calls)]

    def layer_times_ms(self, calls: int) -> dict[str, float]:
        """Return the milliseconds of each layer over some passes, by name, without a CUDA graph."""
        device = self._open()
        context: tensorrt.IExecutionContext = self._context
        spent: dict[str, float] = {}
        context.profiler = self._clock = layer_clock(self._trt, spent)  # the context keeps no hold
        context.enqueue_emits_profile = True
        for _ in range(calls):
            self._execute(device)
            device.synchronize()
        return spent

    def inspect(self) -> str:
        """Return TensorRT's JSON description of the layers, at the context's shapes if prepared."""
        engine: tensorrt.ICudaEngine = self.engine
        inspector: tensorrt.EngineInspector = engine.create_engine_inspector()
        if self._context is not None:  # without it an open batch has no types
            inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def close(self) -> None:
        """Free context, engine and runtime, in this order; the caller closes the device."""
        if self._device is not None:
            self._device.drop_graph()
        self._context = None
        self.engine = None
        self._runtime = None
        self._device, self._tensors, self._batch = None, {}, 0

    def _dtype(self, engine: "tensorrt.ICudaEngine", name: str) -> np.dtype[np.generic]:
        stated = engine.get_tensor_dtype(name).name
        if stated not in _DTYPES:
            raise ExportError(f"{self.path}: {name} is {stated}, which numpy does not know")
        return np.dtype(_DTYPES[stated])

    def _reserve(self, engine: "tensorrt.ICudaEngine", device: CudaDevice, name: str) -> _Tensor:
        context: tensorrt.IExecutionContext = self._context
        shape = tuple(context.get_tensor_shape(name))
        if -1 in shape:
            raise ExportError(
                f"{self.path}: the size of {name} {shape} depends on the picture; export the model "
                "with nms: host or matrix"
            )
        dtype = self._dtype(engine, name)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return _Tensor(name, name == self._spec.name, dtype, shape, device.allocate(size))

    def _shape(self, shape: Shape) -> None:
        """Set the input's shape in the context, which determines all others."""
        context: tensorrt.IExecutionContext = self._context
        name = self._spec.name
        if not context.set_input_shape(name, shape) or context.infer_shapes():
            raise ExportError(
                f"{self.path}: {name} {shape} is refused: {last_errors(self._logger)}"
            )

    def _set_batch(self, batch: int) -> None:
        device = self._open()
        device.synchronize()  # a running graph still uses its shapes
        device.drop_graph()
        self._recorded, self._calls = False, 0
        self._shape((batch, *self._spec.picture_shape))
        self._batch = batch

    def _begin_pass(self) -> None:
        """Count the call; record the CUDA graph after enough calls."""
        device = self._open()
        self._calls += 1
        wanted = self._cuda_graph and not self._recorded and not self.graph_refused
        if wanted and self._calls > _CALLS_BEFORE_GRAPH:
            self._record(device)

    def _queue_pass(self) -> None:
        device = self._open()
        if self._recorded:
            device.launch()
        else:
            self._execute(device)

    def _execute(self, device: CudaDevice) -> None:
        context: tensorrt.IExecutionContext = self._context
        if not context.execute_async_v3(device.stream):
            raise ExportError(
                f"{self.path}: TensorRT failed to run it: {last_errors(self._logger)}"
            )

    def _record(self, device: CudaDevice) -> None:
        """Record the pass as a CUDA graph, or store why that failed."""
        context: tensorrt.IExecutionContext = self._context
        device.synchronize()
        device.begin_capture()
        recorded = context.execute_async_v3(device.stream)
        try:
            device.end_capture()
        except ExportError as error:
            self.graph_refused = str(error)
            return
        if not recorded:
            device.drop_graph()
            self.graph_refused = last_errors(self._logger)
            return
        self._recorded = True

    def _check(self, images: Images, tensor: _Tensor) -> None:
        low, high = self._batches
        if (
            images.ndim == len(tensor.shape)
            and images.shape[1:] == tensor.shape[1:]
            and low <= images.shape[0] <= high
            and images.dtype == tensor.dtype
        ):
            return
        batch = str(low) if low == high else f"{low}..{high}"
        raise ExportError(
            f"{self.path}: got images {images.shape} {images.dtype}; expected ({batch}, "
            f"{', '.join(map(str, tensor.shape[1:]))}) {tensor.dtype}"
        )

    def _open(self) -> CudaDevice:
        if self._context is None or self._device is None:
            raise ExportError(f"{self.path}: not loaded; use the engine inside a `with` statement")
        return self._device
