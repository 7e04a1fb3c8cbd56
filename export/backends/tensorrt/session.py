"""Open a plan for `verify.py`. A bundle holds a copy, so it imports nothing of ours."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tensorrt

BUILT = "model.engine"  # what trtexec writes beside an ONNX file


class PlanSession:
    """A plan on the first GPU.

    Attributes:
        batches: the smallest and the largest batch to try.
    """

    def __init__(
        self, trt: ModuleType, cuda: ModuleType, plan: bytes, artifact: Mapping[str, object]
    ) -> None:
        self._trt, self._cuda = trt, cuda
        self._logger = trt.Logger(trt.Logger.ERROR)
        trt.init_libnvinfer_plugins(self._logger, "")
        runtime: tensorrt.Runtime = trt.Runtime(self._logger)
        runtime.engine_host_code_allowed = bool(artifact.get("version_compatible"))
        engine: tensorrt.ICudaEngine = runtime.deserialize_cuda_engine(plan)
        context: tensorrt.IExecutionContext = engine.create_execution_context() if engine else None
        if context is None:
            raise RuntimeError(f"TensorRT {trt.__version__} cannot load it; {_rebuild(artifact)}")
        self._runtime, self._engine, self._context = runtime, engine, context
        self._names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._source = next(
            name for name in self._names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        )
        size = engine.get_tensor_shape(self._source)[0]
        self.batches: tuple[int, int] = (size, size)
        if size == -1:
            smallest, _, largest = engine.get_tensor_profile_shape(self._source, 0)
            self.batches = smallest[0], largest[0]
        self._stream = _answer(cuda, cuda.cudaStreamCreateWithFlags(1))

    def run(self, batch: NDArray[np.float32 | np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Return every tensor by name, the input among them.

        Raises:
            RuntimeError: the engine refuses the batch, or the GPU fails.
        """
        trt, cuda, stream = self._trt, self._cuda, self._stream
        engine: tensorrt.ICudaEngine = self._engine
        context: tensorrt.IExecutionContext = self._context
        memory: dict[str, int] = {}
        arrays: dict[str, NDArray[np.generic]] = {}
        try:
            if not context.set_input_shape(self._source, batch.shape) or context.infer_shapes():
                raise RuntimeError(f"the engine refuses a batch of {batch.shape}")
            for name in self._names:
                kind = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
                shape = tuple(context.get_tensor_shape(name))
                arrays[name] = batch if name == self._source else np.empty(shape, dtype=kind)
                memory[name] = _answer(cuda, cuda.cudaMalloc(arrays[name].nbytes))
                context.set_tensor_address(name, int(memory[name]))
            # On the engine's stream: copies from pageable memory on others would not wait for it.
            self._copy(arrays[self._source], memory[self._source], to_device=True)
            if not context.execute_async_v3(int(stream)):
                raise RuntimeError("TensorRT failed to run it")
            for name in self._names:
                if name != self._source:
                    self._copy(arrays[name], memory[name], to_device=False)
            _answer(cuda, cuda.cudaStreamSynchronize(stream))
        finally:
            for pointer in memory.values():
                cuda.cudaFree(pointer)
        return arrays

    def _copy(self, array: NDArray[np.generic], pointer: int, *, to_device: bool) -> None:
        cuda, kinds = self._cuda, self._cuda.cudaMemcpyKind
        host, size = array.ctypes.data, array.nbytes
        if to_device:
            kind = kinds.cudaMemcpyHostToDevice
            _answer(cuda, cuda.cudaMemcpyAsync(pointer, host, size, kind, self._stream))
        else:
            kind = kinds.cudaMemcpyDeviceToHost
            _answer(cuda, cuda.cudaMemcpyAsync(host, pointer, size, kind, self._stream))

    def close(self) -> None:
        """Free the stream."""
        self._cuda.cudaStreamDestroy(self._stream)


def open_session(path: Path, artifact: Mapping[str, object], device: str) -> PlanSession:
    """Open the plan at `path`; `device` is ONNX Runtime's, and a plan runs on its GPU.

    Raises:
        ImportError: TensorRT or cuda-python is not installed.
        RuntimeError: it was built for another machine, or TensorRT or the GPU refuses it.
    """
    del device
    try:
        import tensorrt as trt

        cuda = _load_cuda()
    except (ImportError, OSError) as error:
        raise ImportError(f"needs tensorrt and cuda-python ({error})") from None
    facts = _answer(cuda, cuda.cudaGetDeviceProperties(0))
    here = {"tensorrt": trt.__version__, "compute_capability": f"{facts.major}.{facts.minor}"}
    _require_same_machine(artifact, here)
    return PlanSession(trt, cuda, path.read_bytes(), artifact)


def _load_cuda() -> ModuleType:
    try:
        from cuda.bindings import runtime
    except ImportError:
        from cuda import cudart as runtime  # before cuda-python 12.6
    module: ModuleType = runtime
    return module


def _answer(cuda: ModuleType, answer: tuple[Any, ...]) -> Any:
    """Return the results of a CUDA runtime call; raise on its error."""
    if int(answer[0]) != 0:
        raise RuntimeError(f"CUDA failed: {cuda.cudaGetErrorString(answer[0])[1]!r}")
    return answer[1] if len(answer) > 1 else None


def _require_same_machine(artifact: Mapping[str, object], here: Mapping[str, str]) -> None:
    built = artifact.get("built_on")
    free = artifact.get("version_compatible") or artifact.get("portable") != "none"
    if not isinstance(built, Mapping) or free:
        return  # TensorRT itself refuses what it cannot run
    words = {"tensorrt": "TensorRT", "compute_capability": "a GPU of SM"}
    found = [
        f"{word} {built[key]} (here: {here[key]})"
        for key, word in words.items()
        if built[key] != here[key]
    ]
    if found:
        raise RuntimeError(f"was built for {' and '.join(found)}; {_rebuild(artifact)}")


def _rebuild(artifact: Mapping[str, object]) -> str:
    return f"build it here with ./build_engines.sh, from the ONNX file of {artifact['name']}"
