"""Export a trained detector's `model.safetensors` to ONNX, as its run would."""

from contextlib import suppress
from pathlib import Path

import numpy as np

from export.artifact.manifest import Manifest
from export.artifact.preprocessing import Preprocessing
from export.errors import ExportError
from export.optional import require
from export.pictures.calibration import calibration_canvases

TRAINED = "preprocessing of training"  # key of `Manifest.made_by`


def checkpoint_to_onnx(
    file: Path, out: Path, images: Path | None = None, count: int = 64, seed: int = 0
) -> Path:
    """Write `out/model.onnx` and its sidecar in FP32; return the ONNX file.

    NMS, input and opset are those of the recipe in the file's metadata. The sidecar states the
    preprocessing that the model is to be run with, also where the file states none. The detections
    are compared with torch's on `count` pictures of `images`, or on random pixels without it.

    Raises:
        DataError: the pictures cannot be read.
        ExportError: the file does not describe its model, or the graph differs from torch.
        MissingDependencyError: a package that is needed is not installed.
    """
    for package in ("torch", "torchvision", "onnx"):
        require(package, extra="train", purpose=f"Exporting {file}")
    from compress.stages.artifacts import compare_with_torch, torch_detections, write_fp32
    from compress.stages.model_file import load_detector
    from compress.stages.model_name import ModelName

    loaded = load_detector(file)
    manifest, export = loaded.metadata.manifest, loaded.metadata.export_settings(file)
    with suppress(ValueError):  # it is already a role, not the name of a model
        manifest = manifest.model_copy(update={"model": ModelName.parse(manifest.model).role})
    if out.resolve() == file.resolve().parent:
        raise ExportError(f"{out}: holds the checkpoint itself; choose another folder")
    manifest = _with_preprocessing(manifest)
    spec = manifest.input
    if images is None:
        if export.nms == "matrix" and manifest.nms.mode == "host":
            raise ExportError(
                f"{file}: its recipe has export.nms: matrix, which must be shown to converge on "
                "real pictures; give --images DIR (in Python: images=)"
            )
        noise = np.random.default_rng(seed).integers(0, 256, (spec.height, spec.width, 3), np.uint8)
        pictures = [noise]
    else:
        pictures = calibration_canvases(images, spec, count, seed)
    path = write_fp32(loaded.detector, manifest, export, pictures, pictures[0], out)
    reference = torch_detections(loaded.detector, manifest, pictures)
    compare_with_torch(path, manifest.model, reference, pictures)
    return path


def _with_preprocessing(manifest: Manifest) -> Manifest:
    """State the preprocessing that the exported model is run with, where its file states none.

    That with which such a model was trained and measured is not known: JPEGs were decoded at a
    fraction of their size then, 16-bit pictures always taken as 16 bits.
    """
    spec = manifest.input
    if spec.preprocessing is not None:
        return manifest
    stated = spec.model_copy(update={"preprocessing": Preprocessing(bit_depth=spec.bit_depth)})
    made_by = {**manifest.made_by, TRAINED: "unknown: the checkpoint is older than its statement"}
    return manifest.model_copy(update={"input": stated, "made_by": made_by})
