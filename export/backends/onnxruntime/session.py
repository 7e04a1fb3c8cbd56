"""Open an ONNX file for `verify.py`. A bundle holds a copy, so it imports nothing of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnxruntime

BUILT = None  # the graph is what runs
MAX_BATCH = 1024  # of a graph with a fixed batch
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}


class OnnxSession:
    """An open ONNX file.

    Attributes:
        batches: the smallest and the largest batch to try.
    """

    def __init__(self, session: "onnxruntime.InferenceSession") -> None:
        self._session = session
        self._input = session.get_inputs()[0]
        self._names = [output.name for output in session.get_outputs()]
        size = self._input.shape[0]
        self.batches: tuple[int, int] = (size, size) if isinstance(size, int) else (1, 3)

    def run(self, batch: NDArray[np.float32 | np.uint8]) -> dict[str, NDArray[np.generic]]:
        """Return the outputs by name.

        Raises:
            RuntimeError: the graph refuses the batch, or fails.
        """
        try:
            values = self._session.run(self._names, {self._input.name: batch})
        except Exception as error:  # its exception classes share no base but this
            raise RuntimeError(f"ONNX Runtime fails: {error}") from None
        return dict(zip(self._names, values, strict=True))

    def close(self) -> None:
        """Free nothing: the session ends with its last reference."""


def open_session(path: Path, artifact: Mapping[str, object], device: str) -> OnnxSession:
    """Open the ONNX file at `path` on `device`.

    Raises:
        ImportError: ONNX Runtime is not installed.
        RuntimeError: the device's provider did not load, or the file is refused.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(f"needs onnxruntime ({error}): pip install onnxruntime") from None
    if device not in PROVIDERS:
        raise RuntimeError(f"device {device}: ONNX Runtime runs on {', '.join(PROVIDERS)}")
    onnxruntime.set_default_logger_severity(4)
    wanted, options = PROVIDERS[device], onnxruntime.SessionOptions()
    if artifact["precision"] == "fp8":  # the optimiser moves FP8 to operators without kernels
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            path.read_bytes(), options, providers=[wanted], enable_fallback=False
        )
    except Exception as error:  # its exception classes share no base but this
        raise RuntimeError(f"ONNX Runtime {onnxruntime.__version__} refuses it: {error}") from None
    if wanted not in session.get_providers():
        raise RuntimeError(
            f"{wanted} was asked for, and ONNX Runtime offers "
            f"{', '.join(session.get_providers())}; install its libraries, or leave out --device"
        )
    shapes = [taken.shape for taken in session.get_inputs()]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] == 0:
        raise RuntimeError(f"the graph takes {shapes}; expected one batch of pictures")
    if isinstance(shapes[0][0], int) and shapes[0][0] > MAX_BATCH:
        raise RuntimeError(f"the graph takes {shapes[0][0]} pictures at once, over {MAX_BATCH}")
    _check_names(session, artifact)
    return OnnxSession(session)


def _check_names(session: "onnxruntime.InferenceSession", artifact: Mapping[str, object]) -> None:
    """Refuse a graph whose tensors have other names than the bundle's README states.

    Raises:
        RuntimeError: naming them.
    """
    form, nms = artifact["input"], artifact["nms"]
    assert isinstance(form, Mapping)  # both checked by `bundle_content.py`
    assert isinstance(nms, Mapping)
    (taken,) = session.get_inputs()
    given = {output.name for output in session.get_outputs()}
    promised = {"boxes", "scores", "labels"}
    if nms["mode"] in ("graph", "matrix"):
        promised.add("num")
    if taken.name != form.get("name", taken.name) or given != promised:
        raise RuntimeError(
            f"the graph takes {taken.name!a} and gives {', '.join(map(ascii, sorted(given)))}; "
            f"expected {form.get('name', taken.name)!a} and {', '.join(sorted(promised))}"
        )
