"""How a benchmark opens every model alike, in this process or in another."""

from pathlib import Path

from pydantic import PositiveInt

from export.backends.providers import Device
from export.config import Section
from export.engine import Engine, open_engine


class EngineSettings(Section):
    """What a benchmark may choose of an engine."""

    threads: PositiveInt | None = None  # None: the physical cores this process may use
    device: Device = "cpu"  # of ONNX files; a TensorRT engine runs on its GPU
    cuda_graph: bool = False  # whether ONNX Runtime replays a CUDA graph

    def open(self, path: Path) -> Engine:
        """Return the engine of the artifact at `path`; it loads on enter.

        Raises:
            ExportError: the artifact or its sidecar is missing or broken, or nothing opens it.
        """
        return open_engine(path, self.threads, self.device, cuda_graph=self.cuda_graph)
