"""Open a detector from any output of a run."""

import json
import tarfile
import tempfile
import warnings
from contextlib import ExitStack
from os import PathLike
from pathlib import Path

from compress.stages.model_name import ModelName
from export.artifact.int8_range import saturation_at
from export.artifact.manifest import MADE_FOR_TENSORRT, read_manifest
from export.backends import device_choices
from export.bundles.packing import bundle_artifact, bundle_graphs
from export.config import MOST_THREADS
from export.engine import Engine, open_engine
from export.errors import ExportError, shown
from slimdet.arguments import a_path, a_whole_number, a_word
from slimdet.model import Model

TRAINED = (".safetensors", ".pt", ".pth")  # run in torch; .pt: of Ultralytics' trainers
ARTIFACTS = ("model.onnx", "model.engine", "model.safetensors")
EXPECTED = (
    "expected a run's folder, a bundle (folder or .tar.gz), a model.onnx or model.engine with its "
    "model.json, a model.safetensors, or a best.pt of Ultralytics' trainers"
)


def load(
    path: str | PathLike[str],
    *,
    artifact: str | None = None,
    device: str = "cpu",
    threads: int | None = None,
) -> Model:
    """Open a detector.

    Args:
        path: the folder of a run, which gives its student's FP32 ONNX file; a bundle, as a folder
            or .tar.gz, which gives its first artifact; a model.onnx or model.engine with its
            model.json beside it, a model.safetensors or a best.pt of Ultralytics' trainers, which
            need torch; or the folder of one.
        artifact: another artifact of a run or bundle, such as `seed0-student-int8`.
        device: cpu, cuda or tensorrt of ONNX Runtime; cpu or cuda for model.safetensors. An engine
            runs on its GPU.
        threads: CPU threads; None takes the physical cores that this process may use.

    Raises:
        ExportError: nothing at `path` can be opened, it is damaged, or an argument is not valid.
        MissingDependencyError: the runtime that it needs is not installed.
    """
    given = a_path(path, "path", ExportError, EXPECTED)
    if artifact is not None:
        a_word(artifact, "artifact", ExportError, expected="the name of an artifact, or None")
    if threads is not None:
        threads = a_whole_number(threads, "threads", 1, ExportError, MOST_THREADS)
    a_word(device, "device", ExportError, expected=f"one of {', '.join(device_choices())}")
    with ExitStack() as stack:
        found = artifact_in(given, artifact, stack)
        if found.suffix in TRAINED:
            engine = _torch_engine(found, device, threads)
        else:
            engine = open_engine(found, threads, _device(device))
        stack.enter_context(engine)
        caution = saturation_at(found, engine.device)
        if caution is not None:
            warnings.warn(f"{found}: {caution}", stacklevel=2)
        return Model(engine, found, stack.pop_all())


def unpacked(place: Path, stack: ExitStack) -> Path:
    """Return the folder of a packed bundle, which `stack` removes; any other path as it is."""
    packed = place.name.endswith((".tar.gz", ".tgz"))
    return _unpack(place, stack) if packed else place


def artifact_in(given: Path, name: str | None, stack: ExitStack) -> Path:
    """Return the file that `load` opens.

    Args:
        given: a run, a bundle, which `stack` removes where it is unpacked, a model or its folder.
        name: artifact of a run or bundle; None takes its first.
        stack: owner of temporary folders; closed by the caller when it has finished with the file.

    Raises:
        ExportError: there is none.
    """
    place = unpacked(given, stack)
    if (place / "bundle.json").is_file():
        return bundle_artifact(place, name)
    if (place / "recipe.lock.json").is_file():
        return _of_run(place, name)
    if name is not None:
        raise ExportError(
            f"{place}: is neither a run nor a bundle, so artifact={shown(name)} has no effect; "
            "leave it out"
        )
    if place.is_dir():
        files = [place / file for file in ARTIFACTS if (place / file).is_file()]
        if not files:
            raise ExportError(f"{place}: holds no model; {EXPECTED}")
        return files[0]
    if place.suffix not in {".onnx", ".engine", *TRAINED}:
        what = "is not a model" if place.exists() else "there is no such file or folder"
        raise ExportError(f"{place}: {what}; {EXPECTED}")
    return place


def for_tensorrt(given: Path, stack: ExitStack) -> list[Path]:
    """Return the TensorRT graphs of a run or bundle; of any other model, its one file.

    Raises:
        ExportError: there is none.
    """
    place = unpacked(given, stack)
    if (place / "bundle.json").is_file():
        files = bundle_graphs(place)
    elif (place / "recipe.lock.json").is_file():
        files = sorted(place.glob("export/*/model.onnx"))
    else:
        return [artifact_in(given, None, stack)]
    found = {file: read_manifest(file.with_suffix(".json")).precision for file in files}
    chosen = [file for file, precision in found.items() if precision in MADE_FOR_TENSORRT]
    if not chosen:
        raise ExportError(
            f"{given}: holds no quantised graph for TensorRT ({', '.join(MADE_FOR_TENSORRT)}), but "
            f"{', '.join(sorted(set(found.values()))) or 'nothing'}; name a file to check it anyway"
        )
    return chosen


def _of_run(run: Path, name: str | None) -> Path:
    """Return an artifact of a run: the one named, else its first student's in FP32."""
    if name is None:
        try:
            settings = json.loads((run / "recipe.lock.json").read_text(encoding="utf-8"))
            name = f"{ModelName(int(settings['seed']), 'student')}-fp32"
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise ExportError(f"{run / 'recipe.lock.json'}: cannot be read ({error})") from None
    there = sorted(path.parent.name for path in run.glob("export/*/model.onnx"))
    if name in there:
        return run / "export" / name / "model.onnx"
    if there:
        raise ExportError(f"{run}: holds no artifact {shown(name)}, but {', '.join(there)}")
    raise ExportError(
        f"{run}: the run has not exported a model yet; resume it with `slimdet run`, or load "
        "a trained model: models/NAME/model.safetensors"
    )


def _unpack(archive: Path, stack: ExitStack) -> Path:
    """Unpack a bundle into a temporary folder that `stack` removes; return the bundle's folder."""
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slimdet-")))
    try:
        with tarfile.open(archive, "r:gz") as content:
            if not hasattr(tarfile, "data_filter"):
                raise ExportError(
                    f"{archive}: this Python cannot unpack it safely; unpack it first"
                )
            content.extractall(folder, filter="data")  # refuses paths outside of the folder
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ExportError(f"{archive}: cannot be unpacked as a bundle ({error})") from None
    found = sorted(path.parent for path in folder.glob("*/bundle.json"))
    if not found:
        raise ExportError(f"{archive}: holds no bundle (no bundle.json); {EXPECTED}")
    return found[0]


def _device(name: str) -> str:
    if name not in device_choices():
        raise ExportError(f"device {shown(name)}: expected one of {', '.join(device_choices())}")
    return name


def _torch_engine(file: Path, device: str, threads: int | None) -> Engine:
    """Rebuild a detector from its weights file, to run in torch."""
    from export.optional import require

    for package in ("torch", "torchvision"):
        require(package, extra="train", purpose=f"Loading {file}")
    from compress.stages.model_file import load_detector
    from compress.stages.session import torch_device
    from compress.stages.torch_engine import TorchEngine

    loaded = load_detector(file)
    return TorchEngine(loaded.detector, loaded.metadata.manifest, torch_device(device), threads)
