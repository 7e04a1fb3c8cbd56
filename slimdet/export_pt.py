"""`slimdet export-pt`: write a trained YOLO or RT-DETR as a `.pt` for Ultralytics' package."""

import argparse
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from export.arguments import parser_of, run_command, say, some_path
from export.atomic import require_writable
from export.errors import ExportError, counted


def main(arguments: Sequence[str] | None = None, prog: str = "slimdet export-pt") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    return run_command(lambda: _export(options))


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = parser_of(
        prog,
        "Write a trained YOLO or RT-DETR as a .pt that ultralytics.YOLO(...) or RTDETR(...) loads.",
        "0 done, 4 a package is missing, 6 the model cannot be read or is of another family",
    )
    parser.add_argument(
        "model",
        type=some_path,
        metavar="model.safetensors|RUN",
        help="a trained model, or a run, of which the first student is taken",
    )
    parser.add_argument(
        "--out", type=some_path, required=True, metavar="best.pt", help="the file to write"
    )
    return parser


def _export(options: argparse.Namespace) -> int:
    from export.optional import require

    for package in ("torch", "torchvision"):
        require(package, extra="train", purpose=f"Reading {options.model}")
    from compress.stages.model_file import load_detector, read_model_metadata

    _require_free(options.out)
    with ExitStack() as stack:
        file = _trained(options.model, stack)
        settings = read_model_metadata(file).detector
        if settings.type not in ("yolo", "rtdetr"):
            raise ExportError(
                f"{file}: is a {settings.type}, which Ultralytics' package does not have; only "
                "detectors of type yolo and rtdetr can be written for it"
            )
        from compress.detectors.ultralytics_parts.whole_model import save_whole

        loaded = load_detector(file)
        size, classes = loaded.metadata.input_size, loaded.metadata.classes
        made_by = save_whole(loaded.detector, settings.model, size, options.out)
    reader = "RTDETR" if settings.type == "rtdetr" else "YOLO"
    say(
        f"{options.out}: {settings.model} for {counted(len(classes), 'class', 'classes')}, written "
        f"with {made_by}; load it with ultralytics.{reader}({str(options.out)!r})"
    )
    return 0


def _require_free(out: Path) -> None:
    """Refuse a file that is there, or has another ending.

    Raises:
        ExportError: which of both.
        ToolkitError: its folder cannot be written to.
    """
    if out.suffix != ".pt":
        raise ExportError(f"{out}: Ultralytics' package loads files that end in .pt alone")
    if out.exists() or out.is_symlink():
        raise ExportError(
            f"{out}: is there already; move it away or choose another name with --out"
        )
    require_writable(out.parent, "--out")


def _trained(given: Path, stack: ExitStack) -> Path:
    """Return the weights file of a run's first student, or of a folder or file as it is."""
    from compress.stages.model_name import ModelName
    from slimdet.loading import TRAINED, artifact_in

    record = given / "recipe.lock.json"
    if not record.is_file():
        found = artifact_in(given, None, stack)
        if found.suffix not in TRAINED:
            raise ExportError(
                f"{found}: is an exported model; give the model.safetensors that it was exported "
                "from, or its run"
            )
        return found
    students: dict[int, Path] = {}
    for file in given.glob("models/*/model.safetensors"):
        with suppress(ValueError):  # a folder of another name
            name = ModelName.parse(file.parent.name)
            if name.role == "student" and name.finished:
                students[name.seed or 0] = file
    if not students:
        raise ExportError(f"{given}: has no trained student yet; resume it with `slimdet run`")
    return students[min(students)]
