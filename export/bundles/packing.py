"""Pack models and all that a device needs to run and check them into one folder."""

import gzip
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from export import verify
from export.artifact import (
    bundle_agreement,
    bundle_content,
    bundle_files,
    bundle_output,
    bundle_runs,
    int8_range,
    stored_numbers,
)
from export.artifact.bundle_content import MIN_SCORE, TOLERANCES
from export.artifact.manifest import Manifest, file_sha256, read_manifest
from export.atomic import write_bytes, write_json, write_text
from export.backends import BACKENDS
from export.backends.interface import Backend
from export.bundles.replacing import require_replaceable
from export.bundles.text import build_script, readme, triton_config
from export.bundles.wheel import wheel
from export.detections import Candidates, Detections, select_detections
from export.draw import draw_boxes
from export.engine import open_engine, place
from export.errors import ExportError, ToolkitError
from export.pictures.images import Images, open_photograph, to_input


@dataclass(frozen=True)
class Packed:
    """One artifact inside the bundle.

    Attributes:
        name: name of its folder in `models/`, unique in the bundle.
        path: artifact file in the bundle.
        manifest: its sidecar.
        found: its detections on the golden picture, in input pixels.
        min_score: lowest score of the expected detections.
        candidates: its raw outputs there.
        images: the batch it was given.
    """

    name: str
    path: Path
    manifest: Manifest
    found: Detections
    min_score: float
    candidates: Candidates
    images: Images

    @property
    def backend(self) -> Backend:
        """Backend of the artifact."""
        return BACKENDS[self.manifest.backend]


def write_bundle(
    folder: Path,
    artifacts: Sequence[Path],
    golden: Path | NDArray[np.uint8],
    *,
    name: str,
    threads: int | None = None,
) -> Path:
    """Write a whole bundle to `folder` and pack it to `folder`.tar.gz; return the folder.

    A bundle that is there already is replaced once the new one is whole; a folder with any file
    that such a bundle does not list is not.

    Args:
        folder: bundle folder; must not exist yet, or be a bundle.
        artifacts: ONNX files and engines with their sidecars, the first being the one that
            `python -m export.predict` takes. They must run on this machine.
        golden: a photograph, as a file or as (H, W, 3) RGB, with something to find in it.
        name: model name for the README.
        threads: threads of CPU engines; None takes the physical cores.

    Raises:
        DataError: the golden picture cannot be read.
        ExportError: an artifact cannot be trusted or run, or a file in the way would be lost.
        ToolkitError: the disk is full.
    """
    sources = [*artifacts, *([golden] if isinstance(golden, Path) else [])]
    require_replaceable(folder, sources)
    missing = [parent for parent in folder.parents if not parent.exists()]
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".slimdet-", dir=folder.parent) as made:
            partial = Path(made) / folder.name
            partial.mkdir()  # with the permissions of any new folder, which `made` has not
            fill_bundle(partial, artifacts, golden, name=name, threads=threads)
            require_replaceable(folder, sources)  # as it is now
            _swap(folder, partial, Path(made) / "before")
        pack(folder)
    except OSError as error:
        raise ToolkitError(
            f"{folder}: the bundle could not be written ({error.strerror or error}); make room or "
            "choose another folder"
        ) from error
    finally:
        for parent in missing:  # those that hold no bundle now
            with suppress(OSError):
                parent.rmdir()
    return folder


def _swap(folder: Path, new: Path, before: Path) -> None:
    """Move `new` to `folder`, and what is there to `before`; if that fails, leave it there."""
    if folder.is_dir():
        folder.replace(before)
    try:
        new.replace(folder)
    except OSError:
        if before.is_dir():
            before.replace(folder)
        raise


def fill_bundle(
    folder: Path,
    artifacts: Sequence[Path],
    golden: Path | NDArray[np.uint8],
    *,
    name: str,
    threads: int | None = None,
) -> None:
    """Fill an empty folder with a bundle; see `write_bundle`."""
    if not artifacts:
        raise ExportError(f"{folder}: no artifacts to pack; name at least one model.onnx")
    spec = read_manifest(artifacts[0].with_suffix(".json")).input
    pixels = open_photograph(golden, spec.bit_depth) if isinstance(golden, Path) else golden
    packed = [
        _pack_artifact(folder, path, own, pixels, threads)
        for path, own in zip(artifacts, _names(artifacts), strict=True)
    ]
    first = packed[0].manifest
    _require_one_model(packed)
    _write_golden(folder, pixels, packed[0])
    write_text("".join(f"{label}\n" for label in first.classes), folder / "labels.txt")
    thresholds = {
        "score": first.score_threshold,
        "evaluation_score": first.evaluation_score_threshold,
        "nms": first.nms.mode,
        "nms_iou": first.nms.iou,
        "max_detections": first.nms.max_detections,
    }
    write_json(thresholds, folder / "thresholds.json")
    _write_verification(folder)
    _write_triton(folder / "triton", packed)
    files = {one.path.relative_to(folder).as_posix(): one.manifest for one in packed}
    lines = [line for backend in BACKENDS.values() for line in backend.script(files)]
    write_text(build_script(lines), folder / "build_engines.sh")
    (folder / "build_engines.sh").chmod(0o755)
    machines = [(one.name, one.manifest, one.backend.made_for(one.manifest)) for one in packed]
    packages = [backend.packages for backend in BACKENDS.values()]
    used = dict.fromkeys(one.manifest.backend for one in packed)
    requirements = {
        runtime: packages
        for backend in used
        for runtime, packages in BACKENDS[backend].requirements().items()
    }
    own = wheel()
    if own is not None:
        write_bytes(own[1], folder / own[0])
    text = readme(name, machines, packages, own[0] if own else None, requirements)
    write_text(text, folder / "README.md")
    described = [_describe(folder, one) for one in packed]
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    content = {
        "schema": 1,
        "name": name,
        "default": packed[0].name,
        "classes": first.classes,
        "golden": {"input": "golden/input.npy", "drawn": "golden/expected.png"},
        "artifacts": described,
        "files": {path.relative_to(folder).as_posix(): file_sha256(path) for path in written},
    }
    write_json(content, folder / "bundle.json")


def pack(folder: Path) -> Path:
    """Write `folder`.tar.gz, the same bytes for the same content; return its path."""
    path = folder.with_name(folder.name + ".tar.gz")
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream,
        tarfile.open(fileobj=stream, mode="w") as archive,
    ):
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            entry = archive.gettarinfo(file, f"{folder.name}/{file.relative_to(folder).as_posix()}")
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            if entry.isreg():
                with file.open("rb") as content:
                    archive.addfile(entry, content)
            else:  # another name of a file that is already packed
                archive.addfile(entry)
    return write_bytes(packed.getvalue(), path)


def bundle_artifact(folder: Path, name: str | None = None) -> Path:
    """Return the artifact of a bundle: the one named, else its first.

    Raises:
        ExportError: it is no bundle, has no artifact of that name, or the artifact or its sidecar
            is not the file that the bundle lists.
    """
    content = _content(folder)
    files = {artifact["name"]: artifact["file"] for artifact in content["artifacts"]}
    wanted = name or content["default"]
    if wanted not in files:
        raise ExportError(f"{folder}: holds no artifact {wanted!r}, but {', '.join(files)}")
    return _checked(folder, content, files[wanted])


def bundle_graphs(folder: Path) -> list[Path]:
    """Return the ONNX files of a bundle, checked as `bundle_artifact` checks its one."""
    content = _content(folder)
    files = [artifact["file"] for artifact in content["artifacts"]]
    return [_checked(folder, content, file) for file in files if file.endswith(".onnx")]


def _content(folder: Path) -> bundle_content.Bundle:
    try:
        return bundle_content.read_content(folder)
    except bundle_content.BundleError as error:
        raise ExportError(str(error)) from None


def _checked(folder: Path, content: bundle_content.Bundle, file: str) -> Path:
    """Compare an artifact and its sidecar with their hashes; return the artifact's path."""
    sidecar = PurePosixPath(file).with_suffix(".json").as_posix()
    try:
        bundle_content.check_files(folder, {one: content["files"][one] for one in (sidecar, file)})
    except bundle_content.BundleError as error:
        raise ExportError(str(error)) from None
    return folder / file


def _names(artifacts: Sequence[Path]) -> list[str]:
    """Name artifacts after their folders; a second one of a name gets a number."""
    names: list[str] = []
    for path in artifacts:
        base = path.resolve().parent.name
        name, number = base, 1
        while name in names:
            number += 1
            name = f"{base}-{number}"
        names.append(name)
    return names


def _pack_artifact(
    folder: Path, source: Path, name: str, pixels: NDArray[np.uint8], threads: int | None
) -> Packed:
    """Copy an artifact with its sidecar, run the copy on the golden picture."""
    manifest = read_manifest(source.with_suffix(".json"))
    target = folder / "models" / name
    target.mkdir(parents=True)
    for file in (source, source.with_suffix(".json")):
        shutil.copyfile(file, target / file.name)
    path = target / source.name
    images = to_input([place(pixels, manifest.input).canvas], manifest.input)
    with open_engine(path, threads) as engine:
        candidates = engine.candidates(images)
    # A barely trained model has only low scores, and its bundle must be checked too.
    min_score = min(MIN_SCORE, float(candidates.scores.max(initial=0.0)) / 2)
    found = select_detections(candidates, manifest.nms, max(min_score, 0.0))[0]
    if not len(found.scores):
        raise ExportError(
            f"{source}: finds nothing in the golden picture, so the bundle could prove nothing; "
            "choose a picture with objects in it"
        )
    return Packed(name, path, manifest, found, min_score, candidates, images)


def _require_one_model(packed: Sequence[Packed]) -> None:
    first = packed[0].manifest
    for one in packed[1:]:
        other = one.manifest
        if other.classes != first.classes or (other.input.height, other.input.width) != (
            first.input.height,
            first.input.width,
        ):
            raise ExportError(
                f"{one.name}: has other classes or another input size than {packed[0].name}; a "
                "bundle holds one model in several precisions"
            )


def _write_golden(folder: Path, pixels: NDArray[np.uint8], first: Packed) -> None:
    canvas = place(pixels, first.manifest.input).canvas
    content = io.BytesIO()
    np.save(content, canvas, allow_pickle=False)
    write_bytes(content.getvalue(), folder / "golden" / "input.npy")
    kept = first.found.scores >= first.manifest.score_threshold
    shown = Detections(first.found.boxes[kept], first.found.scores[kept], first.found.labels[kept])
    for name, picture in (
        ("photograph.png", pixels),
        ("expected.png", draw_boxes(canvas, shown, first.manifest.classes)),
    ):
        content = io.BytesIO()
        Image.fromarray(picture).save(content, format="PNG")
        write_bytes(content.getvalue(), folder / "golden" / name)


def _describe(folder: Path, one: Packed) -> dict[str, object]:
    found, record, nms = one.found, one.manifest.engine, one.manifest.nms
    tolerance = TOLERANCES[one.manifest.precision]
    extra_above = one.min_score + tolerance["score"]
    count = len(found.scores)
    if count == nms.max_detections:
        # At the limit another machine may keep other boxes: expect the better half, and count only
        # detections better than all of it as extra.
        count = (count + 1) // 2
        extra_above = float(found.scores[0]) + tolerance["score"]
    expected = zip(found.labels[:count], found.scores[:count], found.boxes[:count], strict=True)
    return {
        "name": one.name,
        "file": one.path.relative_to(folder).as_posix(),
        "backend": one.manifest.backend,
        "precision": one.manifest.precision,
        "input": one.manifest.input.model_dump(),
        "nms": nms.model_dump(),
        "built_on": record.built_on.model_dump() if record else None,
        "portable": record.portable if record else "none",
        "version_compatible": record.version_compatible if record else False,
        "tolerance": tolerance,
        "min_score": one.min_score,
        "extra_above": extra_above,
        "expected_count": count,
        "expected": [  # label, score, box xyxy in input pixels
            [int(label), round(float(score), 6), [round(float(side), 4) for side in box]]
            for label, score, box in expected
        ],
    }


def _write_verification(folder: Path) -> None:
    """Write `verify.py`, what it reads the bundle with, and each backend's part of it."""
    for module in (
        verify,
        bundle_agreement,
        bundle_content,
        bundle_files,
        bundle_output,
        bundle_runs,
        int8_range,
        stored_numbers,
    ):
        source = Path(str(module.__file__))
        write_bytes(source.read_bytes(), folder / source.name)
    for name, backend in BACKENDS.items():
        write_bytes(backend.session.read_bytes(), folder / f"{bundle_content.SESSION}{name}.py")


def _write_triton(folder: Path, packed: Sequence[Packed]) -> None:
    """Write a Triton model repository of the artifacts that Triton can run."""
    for one in packed:
        triton = one.backend.triton(one.manifest)
        if triton is None:
            continue
        target = folder / one.name
        (target / "1").mkdir(parents=True)
        try:
            os.link(one.path, target / "1" / triton.file)  # a hard link needs no second copy
        except OSError:
            shutil.copyfile(one.path, target / "1" / triton.file)
        outputs = {
            "boxes": one.candidates.boxes,
            "scores": one.candidates.scores,
            "labels": one.candidates.labels,
        }
        config = triton_config(
            one.name, one.manifest, one.images, outputs, triton.backend, triton.options
        )
        write_text(config, target / "config.pbtxt")
