"""The TensorRT backend: its entry in `export.backends.BACKENDS`.

Importing this loads nothing heavy, since the commands' help lists what backends offer.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from export.arguments import gpu_index, positive, some_path
from export.backends.tensorrt.graphs import SOURCES
from export.errors import ExportError, counted

if TYPE_CHECKING:
    from export.artifact.manifest import Manifest
    from export.backends.interface import EngineSettings, Triton
    from export.backends.tensorrt.engine import TensorRTEngine
    from export.backends.tensorrt.settings import TensorRTConfig


class TensorRTBackend:
    """Builds an engine of an ONNX file on the machine that runs it."""

    devices: tuple[str, ...] = ()  # an engine runs on the GPU that it was built for
    graphs: Mapping[str, str] = SOURCES
    runs_graphs = False
    packages = "tensorrt and cuda-python"
    session = Path(__file__).with_name("session.py")

    def requirements(self) -> Mapping[str, tuple[str, ...]]:
        """Return TensorRT in the version used here, and what calls CUDA."""
        from export.backends.tensorrt.library import load_tensorrt

        version = load_tensorrt("Naming its version").__version__
        return {"TensorRT": (f"tensorrt=={version}", "cuda-python>=12.6")}

    def open(self, path: Path, settings: "EngineSettings") -> "TensorRTEngine":
        """Return the engine at `path`; it loads on enter and has no settings of its user.

        Raises:
            ExportError: the sidecar states a precision that TensorRT does not have, or not what
                the engine was built on.
        """
        from pydantic import ValidationError

        from export.artifact.manifest import read_manifest
        from export.backends.tensorrt.engine import TensorRTEngine
        from export.backends.tensorrt.settings import TensorRTConfig

        del settings
        precision = read_manifest(path.with_suffix(".json")).precision
        try:
            config = TensorRTConfig.model_validate({"precision": precision})
        except ValidationError:
            raise ExportError(f"{path}: TensorRT has no precision {precision}") from None
        return TensorRTEngine(path, config)

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Add what TensorRT's builder takes."""
        group = parser.add_argument_group("TensorRT")
        group.add_argument(
            "--device",
            type=gpu_index,
            default=0,
            metavar="cuda:N",
            help="GPU to build for, or its number (default: cuda:0)",
        )
        group.add_argument(
            "--batch",
            type=positive,
            nargs=3,
            default=(1, 1, 1),
            metavar=("MIN", "OPT", "MAX"),
            help="batch sizes for a graph with a dynamic batch (default: 1 1 1)",
        )
        group.add_argument(
            "--workspace-mib",
            type=positive,
            help="memory for building, MiB (default: all of the GPU's)",
        )
        group.add_argument(
            "--timing-cache",
            type=some_path,
            metavar="FILE",
            help="timing cache of earlier builds to read and extend",
        )
        group.add_argument(
            "--optimization-level",
            type=int,
            choices=range(6),
            default=3,
            help="TensorRT's builder optimization level (default: 3)",
        )
        group.add_argument(
            "--timing-iterations", type=positive, help="times that each tactic is timed"
        )
        group.add_argument(
            "--tf32", action="store_true", help="compute FP32 layers in TF32 (10-bit mantissas)"
        )
        group.add_argument(
            "--version-compatible",
            action="store_true",
            help="build an engine that later TensorRT versions of this major also run",
        )
        group.add_argument(
            "--portable",
            choices=("none", "same_sm", "ampere_plus"),
            default="none",
            help="other GPUs that the engine is to run on (default: none)",
        )
        group.add_argument(
            "--builds",
            type=positive,
            default=1,
            metavar="K",
            help="build K engines, time them in turns and keep the fastest; their spread goes into "
            "the sidecar (3 or more for numbers to publish; a timing cache makes builds alike)",
        )
        group.add_argument(
            "--weakly-typed",
            action="store_true",
            help="let TensorRT choose types by its older rules; TensorRT below 11 only",
        )

    def check(self, model: Path, settings: Mapping[str, object]) -> None:
        """Refuse what the GPU or TensorRT here cannot build."""
        from export.backends.tensorrt.build import check_machine

        check_machine(f"Building an engine of {model}", _config(settings))

    def build(self, graph: Path, folder: Path, settings: Mapping[str, object]) -> Path:
        """Build `folder/model.engine` with its sidecar; see `build_engine`."""
        from export.backends.tensorrt.build import build_engine

        return build_engine(graph, folder, _config(settings))

    def summary(self, path: Path) -> str:
        """Describe an engine by its sidecar."""
        from export.artifact.manifest import read_manifest

        manifest = read_manifest(path.with_suffix(".json"))
        record, certificate = manifest.engine, manifest.certificate
        assert record is not None  # the build wrote both
        assert certificate is not None
        types = ", ".join(f"{count} {name}" for name, count in certificate.nodes.items())
        lines = [
            f"{path}: {path.stat().st_size / 1e6:.1f} MB, {counted(record.layers, 'layer')} "
            f"({types or 'types not stated'}), built in {record.build_seconds:.0f} s for "
            f"{record.built_on}"
        ]
        if record.builds is not None:
            builds = record.builds
            listed = ", ".join(f"{median:.3f}" for median in builds.p50_ms)
            lines.append(
                f"of {len(builds.p50_ms)} builds the fastest is kept: {listed} ms at batch "
                f"{builds.batch}, spread {builds.spread:.1%}"
            )
        if record.not_timed is not None:
            lines.append(f"not timed: {record.not_timed}")
        if certificate.problem is not None:
            lines.append(f"its precision is {certificate.problem}")
        return "\n".join(lines)

    def made_for(self, manifest: "Manifest") -> str:
        """Name the TensorRT and the GPU that an engine was built on."""
        return "any machine" if manifest.engine is None else str(manifest.engine.built_on)

    def triton(self, manifest: "Manifest") -> "Triton":
        """Return how Triton runs a plan."""
        from export.backends.interface import Triton

        del manifest
        return Triton("tensorrt", "model.plan")

    def script(self, files: Mapping[str, "Manifest"]) -> list[str]:
        """Return a trtexec line per ONNX file that TensorRT takes."""
        from export.backends.tensorrt.trtexec import script_lines

        return script_lines(files)


def _config(settings: Mapping[str, object]) -> "TensorRTConfig":
    """Take the settings of a build from the command's options.

    Raises:
        ExportError: they contradict each other.
    """
    from pydantic import ValidationError

    from export.backends.tensorrt.settings import TensorRTConfig
    from export.reading.mistakes import all_described

    known = {name: settings[name] for name in TensorRTConfig.model_fields if name in settings}
    batch = settings.get("batch")
    if isinstance(batch, list | tuple):
        known["profile"] = dict(zip(("min", "opt", "max"), batch, strict=True))
    try:
        return TensorRTConfig.model_validate(known)
    except ValidationError as error:
        raise ExportError(all_described(error)) from None
