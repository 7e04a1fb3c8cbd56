"""A TensorRT plan as an engine: named tensors, its own stream, buffers made once, no torch."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Self

from export.backends.cuda_device import Buffer, CudaDevice, load_cuda
from export.backends.onnxruntime_backend import verify_artifact
from export.backends.tensorrt_backend import TensorRTConfig
from export.backends.tensorrt_library import listen, load_plugins, load_tensorrt, said
from export.detections import Candidates
from export.errors import ExportError
from export.machine import EngineRecord, Machine, cautions, differences
from export.manifest import Manifest, read_manifest

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
_CALLS_BEFORE_GRAPH = 2  # TensorRT still sets things up in the first calls with a shape


@dataclass(frozen=True)
class _Tensor:
    """One input or output of the plan.

    Attributes:
        shape: at the largest batch.
        buffer: that holds it at that batch.
    """

    name: str
    is_input: bool
    dtype: np.dtype[Any]
    shape: Shape
    buffer: Buffer


class TensorRTEngine:
    """One plan with its sidecar. Loads on enter, frees on exit; for one thread at a time.

    `upload`, `enqueue`, `download` and `synchronize` are the parts of `candidates`, for measuring
    the model alone and the model with its copies.
    """

    def __init__(
        self, path: Path, config: TensorRTConfig, *, trt: Any = None, cuda: Any = None
    ) -> None:
        """Read the sidecar, and no plan yet. `trt` and `cuda` replace the modules in tests.

        Raises:
            ExportError: the sidecar is missing or broken, or speaks of another kind of artifact.
        """
        self.path = path
        self.config = config
        self.graph_refused: str | None = None  # why no CUDA graph could be recorded
        self._manifest = read_manifest(path.with_suffix(".json"))
        self._modules = (trt, cuda)
        self._device: CudaDevice | None = None
        self._kept: list[Any] = []  # what must outlive the context, in order of making
        self._context: Any = None
        self._tensors: dict[str, _Tensor] = {}
        self._batches = (1, 1)
        self._batch = 0  # that the context is set to
        self._calls = 0  # in a row with this batch
        self._recorded = False
        if self._manifest.engine is None:
            raise ExportError(
                f"{path}: its sidecar does not say what it was built on; build the engine again "
                "with python -m export.build"
            )
        if self._manifest.precision != config.precision:
            raise ExportError(
                f"{path}: its sidecar says {self._manifest.precision}, and {config.precision} was "
                f"asked for; open it with precision: {self._manifest.precision}"
            )

    @property
    def manifest(self) -> Manifest:
        """Input size, classes and NMS settings of the artifact."""
        return self._manifest

    @property
    def uses_graph(self) -> bool:
        """Whether the next call with the same batch replays a CUDA graph."""
        return self._recorded

    def candidates(self, images: NDArray[Any]) -> Candidates:
        """Return boxes for a batch of the plan's input shape and type.

        Raises:
            ExportError: the engine is closed, the batch does not fit, or the GPU failed.
        """
        self.upload(images)
        self.enqueue()
        found = self.download()
        return Candidates(
            found["boxes"].astype(np.float32, copy=False),
            found["scores"].astype(np.float32, copy=False),
            found["labels"].astype(np.int32, copy=False),
        )

    def upload(self, images: NDArray[Any]) -> None:
        """Set the batch and queue its copy to the GPU."""
        tensor = self._tensor(self._manifest.input.name)
        self._check(images, tensor)
        if len(images) != self._batch:
            self._set_batch(len(images))
        tensor.buffer.view(tensor.dtype, images.shape)[...] = images
        self._open().upload(tensor.buffer, images.nbytes)

    def enqueue(self) -> None:
        """Queue one pass over what was uploaded last."""
        device = self._open()
        self._calls += 1
        if self._recorded:
            device.launch()
            return
        if self._calls > _CALLS_BEFORE_GRAPH and self.config.cuda_graph and not self.graph_refused:
            self._record(device)
            if self._recorded:
                device.launch()
                return
        self._execute(device)

    def download(self) -> dict[str, NDArray[Any]]:
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

    def __enter__(self) -> Self:
        """Load the plan.

        Raises:
            ExportError: the file is not the one the sidecar describes, was built for another
                machine, or TensorRT refuses it.
            MissingDependencyError: TensorRT or cuda-python is not installed.
        """
        verify_artifact(self.path, self._manifest)
        trt, cuda = self._modules
        trt = trt or load_tensorrt(f"Running {self.path}")
        self._device = CudaDevice(cuda or load_cuda(), self.config.device)
        try:
            self._load(trt, self._device)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Free it."""
        self._close()

    def _load(self, trt: Any, device: CudaDevice) -> None:
        record = self._manifest.engine
        assert record is not None  # checked when the engine was made
        here = device.machine(trt.__version__)
        refuse_other_machine(self.path, self._manifest.precision, record, here)
        logger = listen(trt)
        load_plugins(trt, logger)
        runtime: tensorrt.Runtime = trt.Runtime(logger)
        if record.version_compatible:
            runtime.engine_host_code_allowed = True
        engine: tensorrt.ICudaEngine = runtime.deserialize_cuda_engine(self.path.read_bytes())
        if engine is None:
            raise ExportError(
                f"{self.path}: TensorRT {trt.__version__} cannot load it: {said(logger)}; "
                f"{rebuild_command(record, self._manifest.precision)}"
            )
        context: tensorrt.IExecutionContext = engine.create_execution_context()
        if context is None:
            raise ExportError(
                f"{self.path}: no room on the GPU to run it (it takes "
                f"{engine.device_memory_size_v2 / 2**20:.0f} MiB): {said(logger)}"
            )
        self._kept = [logger, runtime, engine]
        self._context = context
        self._prepare(trt, engine, device)

    def _prepare(self, trt: Any, engine: "tensorrt.ICudaEngine", device: CudaDevice) -> None:
        """Reserve every tensor at its largest batch, and tell the context where they are."""
        context: tensorrt.IExecutionContext = self._context
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if name not in inputs]
        wanted = self._manifest.input.name
        if inputs != [wanted] or not {"boxes", "scores", "labels"} <= set(outputs):
            raise ExportError(
                f"{self.path}: the engine takes {inputs} and gives {outputs}; its sidecar promises "
                f"{wanted} and boxes, scores, labels. Build it again"
            )
        shape = tuple(engine.get_tensor_shape(wanted))
        if shape[0] == -1:
            smallest, _, largest = engine.get_tensor_profile_shape(wanted, 0)
            self._batches = (smallest[0], largest[0])
        else:
            self._batches = (shape[0], shape[0])
        self._shape(wanted, (self._batches[1], *shape[1:]))
        for name in names:
            self._tensors[name] = self._reserve(engine, device, name, name in inputs)
            if not context.set_tensor_address(name, self._tensors[name].buffer.device):
                raise ExportError(f"{self.path}: {name}: {said(self._kept[0])}")

    def _reserve(
        self, engine: "tensorrt.ICudaEngine", device: CudaDevice, name: str, is_input: bool
    ) -> _Tensor:
        context: tensorrt.IExecutionContext = self._context
        shape = tuple(context.get_tensor_shape(name))
        if -1 in shape:
            raise ExportError(
                f"{self.path}: the size of {name} {shape} depends on the picture; export the model "
                "with nms: host or matrix"
            )
        stated = engine.get_tensor_dtype(name).name
        if stated not in _DTYPES:
            raise ExportError(f"{self.path}: {name} is {stated}, which numpy does not know")
        dtype = np.dtype(_DTYPES[stated])
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        return _Tensor(name, is_input, dtype, shape, device.allocate(size))

    def _shape(self, name: str, shape: Shape) -> None:
        """Give the context its input's shape; all others follow from it."""
        context: tensorrt.IExecutionContext = self._context
        if not context.set_input_shape(name, shape) or context.infer_shapes():
            raise ExportError(f"{self.path}: {name} {shape} is refused: {said(self._kept[0])}")

    def _set_batch(self, batch: int) -> None:
        device = self._open()
        device.synchronize()  # a graph that still runs must not lose its shapes
        device.drop_graph()
        self._recorded, self._calls = False, 0
        tensor = self._tensor(self._manifest.input.name)
        self._shape(tensor.name, (batch, *tensor.shape[1:]))
        self._batch = batch

    def _execute(self, device: CudaDevice) -> None:
        context: tensorrt.IExecutionContext = self._context
        if not context.execute_async_v3(device.stream):
            raise ExportError(f"{self.path}: TensorRT failed to run it: {said(self._kept[0])}")

    def _record(self, device: CudaDevice) -> None:
        """Record the pass as a CUDA graph, or remember why it cannot be."""
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
            self.graph_refused = said(self._kept[0])
            return
        self._recorded = True

    def _check(self, images: NDArray[Any], tensor: _Tensor) -> None:
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

    def _tensor(self, name: str) -> _Tensor:
        self._open()
        return self._tensors[name]

    def _open(self) -> CudaDevice:
        if self._context is None or self._device is None:
            raise ExportError(f"{self.path}: not loaded; use the engine inside a `with` statement")
        return self._device

    def _close(self) -> None:
        device, self._device = self._device, None
        if device is not None:
            device.drop_graph()
        self._context = None  # the context before the engine, the engine before the runtime
        while self._kept:
            self._kept.pop()
        if device is not None:
            device.close()
        self._tensors, self._batch, self._calls, self._recorded = {}, 0, 0, False


def refuse_other_machine(path: Path, precision: str, record: EngineRecord, here: Machine) -> None:
    """Refuse an engine that was built for another machine; warn where only speed may suffer.

    Raises:
        ExportError: in one sentence, what differs and what to run.
    """
    found = differences(record, here)
    if found:
        raise ExportError(
            f"{path}: was built for {' and '.join(found)}; {rebuild_command(record, precision)}"
        )
    slower = cautions(record, here)
    if slower:
        warnings.warn(
            f"{path}: was built on {' and '.join(slower)}; it runs, and one built here may be "
            f"faster: {rebuild_command(record, precision)}",
            stacklevel=3,
        )


def rebuild_command(record: EngineRecord, precision: str) -> str:
    """Say what builds the engine on this machine."""
    return (
        f"build it here: python -m export.build {record.onnx} --backend tensorrt "
        f"--precision {precision} --out DIR"
    )
