"""Read and write weights: tensors alone, counted, refused where they match only in part."""

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress.detector import Detector
from compress.foreign.ultralytics_checkpoint import read_checkpoint, unexpected_name
from export.errors import DataError, ExportError, RecipeError, ToolkitError, counted
from export.optional import require

METADATA_KEY = "slimdet"  # of the one entry in the metadata of a safetensors file: JSON
WRAPPERS = ("state_dict", "model_state_dict", "model", "ema_state_dict")
# how many batches a BatchNorm has seen; without a fixed momentum nothing reads it
IGNORED = ".num_batches_tracked"


@dataclass(frozen=True)
class WeightsReport:
    """Which tensors of a file match those of a module.

    Attributes:
        source: the file, or the model that the weights come from.
        loaded: names in the module that were filled.
        missing: names of the module that the file lacks.
        unexpected: names of the file that the module lacks.
        mismatched: names in both, of different shapes, with the shapes.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    @property
    def complete(self) -> bool:
        """Whether module and file match in full."""
        return not (self.missing or self.unexpected or self.mismatched)

    def summary(self) -> str:
        """Return the counts, and the first names of each kind that does not match."""
        parts = [f"{counted(len(self.loaded), 'tensor')} loaded"]
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "mismatched": self.mismatched,
        }
        parts += [f"{len(n)} {kind} ({_first(n)})" for kind, n in kinds.items() if n]
        return ", ".join(parts)


@dataclass(frozen=True)
class InheritReport:
    """Names of the tensors copied from a teacher, and of those without an equal there."""

    copied: tuple[str, ...]
    skipped: tuple[str, ...]

    def summary(self) -> str:
        """Return the counts and the first names skipped."""
        text = counted(len(self.copied), "tensor")
        return (
            f"{text}, {len(self.skipped)} skipped ({_first(self.skipped)})"
            if self.skipped
            else text
        )


def check_weights(module: nn.Module, path: Path, *, strict: bool, what: str) -> None:
    """Raise what `load_weights` would raise, from the names and shapes in the file alone."""
    _matched(module, read_tensors(path, what, shapes=True), path, strict, what)


def load_weights(module: nn.Module, path: Path, *, strict: bool, what: str) -> WeightsReport:
    """Fill `module` from a local .safetensors, .pt or .pth file.

    Args:
        module: filled in place, or left alone when an error is raised.
        path: the file; a `state_dict` or `model` inside it is unwrapped.
        strict: refuse a file that matches only in part.
        what: name of the model, for messages.

    Raises:
        RecipeError: no such file, a file that is more than tensors, or tensors that don't match.
        DataError: the file is damaged, holds no tensors, or values that are not finite.
    """
    report, matched = _matched(module, read_tensors(path, what), path, strict, what)
    require_finite(matched, str(path))
    module.load_state_dict(matched, strict=False)
    return report


def _matched(
    module: nn.Module, found: Mapping[str, Tensor], path: Path, strict: bool, what: str
) -> tuple[WeightsReport, dict[str, Tensor]]:
    if isinstance(module, Detector):
        found = module.renamed(found)
    report, matched = _match(module.state_dict(), found, str(path))
    if not matched or (strict and not report.complete):
        model = what.removesuffix(" weights")
        raise RecipeError(
            f"{path}: these are not the weights of this {model}: {report.summary()}; the model has "
            f"{counted(len(module.state_dict()), 'tensor')}. Check backbone, width, head and "
            "classes of the "
            f"recipe against the model that was saved{_described(path)}"
        )
    return report, matched


def read_tensors(path: Path, what: str, *, shapes: bool = False) -> dict[str, Tensor]:
    """Read the tensors of a file by name, never running code from it.

    A checkpoint of Ultralytics' trainers gives those of the model that is pickled in it. With
    `shapes` only the header is read, and the tensors have no values (device `meta`).

    Raises:
        RecipeError: no such file, an unknown ending, or a pickle of more than tensors.
        DataError: the file is damaged or holds no tensors.
    """
    if path.is_dir():
        raise RecipeError(f"{path}: is a folder; name the file of the {what}")
    if not path.is_file():
        raise RecipeError(f"{path}: there is no such file; it was given as the {what}")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise RecipeError(f"{path}: {what} must be a .safetensors, .pt or .pth file")
    if not path.stat().st_size:
        raise DataError(f"{path}: is empty; fetch or save it again")
    try:
        content: Any
        saved = None if path.suffix == ".safetensors" else read_checkpoint(path, shapes=shapes)
        if saved is not None:
            return saved.tensors
        if path.suffix == ".safetensors" and shapes:
            content = _safetensors_shapes(path)
        elif path.suffix == ".safetensors":
            safetensors = require("safetensors.torch", extra="train", purpose="reading weights")
            content = safetensors.load_file(path)
        elif shapes and zipfile.is_zipfile(path):
            content = torch.load(path, map_location="meta", weights_only=True, mmap=True)
        else:
            with warnings.catch_warnings():  # about pickles it is then going to refuse
                warnings.simplefilter("ignore")
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = unexpected_name(path)
        raise RecipeError(
            f"{path}: refused: the file is not a plain store of tensors"
            f"{'' if named is None else f' (it names {named})'}, and loading it could run "
            "any code in it. Save a state_dict with torch.save or as safetensors, and name that"
        ) from error
    except ToolkitError:
        raise
    except Exception as error:  # every reader has its own kinds for a damaged file
        raise DataError(
            f"{path}: cannot be read as {what} ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no details'}); fetch or save it again"
        ) from error
    for name in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
    pairs = content.items() if isinstance(content, Mapping) else ()
    tensors = {str(k).removeprefix("module."): v for k, v in pairs if isinstance(v, Tensor)}
    if not tensors:
        raise DataError(f"{path}: holds no tensors by name; {what} must be a state_dict")
    return tensors


def _safetensors_shapes(path: Path) -> dict[str, Tensor]:
    safetensors = require("safetensors", extra="train", purpose="reading weights")
    with safetensors.safe_open(path, framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def check_fill(
    module: nn.Module, found: Mapping[str, Tensor], source: str, *, rename: Mapping[str, str]
) -> None:
    """Raise what `fill` would raise, from the shapes alone."""
    _filled(module, found, source, rename)


def fill(
    module: nn.Module, found: Mapping[str, Tensor], source: str, *, rename: Mapping[str, str]
) -> WeightsReport:
    """Fill all of `module` from some of `found`; `rename` maps names that differ.

    Raises:
        RecipeError: a tensor of the module is missing or has another shape.
        DataError: a tensor has values that are not finite.
    """
    report, matched = _filled(module, found, source, rename)
    require_finite(matched, source)
    module.load_state_dict(matched, strict=False)
    used = {rename.get(name, name) for name in matched}
    return WeightsReport(source, report.loaded, (), tuple(n for n in found if n not in used), ())


def _filled(
    module: nn.Module, found: Mapping[str, Tensor], source: str, rename: Mapping[str, str]
) -> tuple[WeightsReport, dict[str, Tensor]]:
    own = module.state_dict()
    known = {name: found[rename.get(name, name)] for name in own if rename.get(name, name) in found}
    report, matched = _match(own, known, source)
    if report.missing or report.mismatched:
        raise RecipeError(
            f"{source}: not the weights of this backbone: {report.summary()}; the backbone has "
            f"{counted(len(own), 'tensor')}, the source {len(found)}"
        )
    return report, matched


BACKBONE = "backbone."  # names that `inherit` leaves alone


def inherit(
    student: nn.Module, teacher: nn.Module, skip: Collection[str] = frozenset()
) -> InheritReport:
    """Copy every tensor outside the backbone that equals one of the teacher's by name and shape.

    Those in `skip` are left alone, whatever their shape: rows of classes in another order.
    """
    own, theirs = student.state_dict(), teacher.state_dict()
    names = [name for name in own if not name.startswith(BACKBONE)]
    copied = [n for n in names if n not in skip and n in theirs and theirs[n].shape == own[n].shape]
    with torch.no_grad():
        for name in copied:
            own[name].copy_(theirs[name])
    return InheritReport(tuple(copied), tuple(n for n in names if n not in set(copied)))


def inheritable(student: nn.Module, teacher: nn.Module) -> float:
    """Return the share of the student's weights outside the backbone that `inherit` would copy.

    Both may be without weights, on torch's meta device.
    """
    theirs = {name: value.shape for name, value in teacher.named_parameters()}
    own = {
        name: value for name, value in student.named_parameters() if not name.startswith(BACKBONE)
    }
    equal = sum(one.numel() for name, one in own.items() if theirs.get(name) == one.shape)
    return equal / max(1, sum(one.numel() for one in own.values()))


def weights_hash(module: nn.Module) -> str:
    """Return the sha256 of all parameters and buffers with their names, types and shapes."""
    digest = hashlib.sha256()
    for name, tensor in sorted([*module.named_parameters(), *module.named_buffers()]):
        value = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_metadata(path: Path) -> str | None:
    """Return what `save_weights` wrote beside the tensors; None if the file has no such entry.

    Raises:
        ExportError: there is no such file, or it is not a whole safetensors file.
        MissingDependencyError: safetensors is not installed.
    """
    safetensors = require("safetensors", extra="train", purpose="reading a model")
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except Exception as error:  # safetensors has a kind of its own
        raise ExportError(
            f"{path}: is not a whole safetensors file ({error}); name the model.safetensors of a "
            "run, or copy it again"
        ) from None
    return metadata.get(METADATA_KEY)


def save_weights(state: Mapping[str, Tensor], path: Path, metadata: str | None = None) -> None:
    """Write tensors by name as safetensors, atomically; make the folder if needed.

    Args:
        state: name -> tensor.
        path: the file to write.
        metadata: JSON to write beside the tensors; `read_metadata` returns it.

    Raises:
        ToolkitError: the file cannot be written.
    """
    safetensors = require("safetensors.torch", extra="train", purpose="saving weights")
    plain = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in state.items()
    }
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # one entry alone: safetensors writes several in an order that changes from run to run
        safetensors.save_file(
            plain, partial, None if metadata is None else {METADATA_KEY: metadata}
        )
        partial.replace(path)
    except Exception as error:  # safetensors wraps the disk's error in its own kind
        partial.unlink(missing_ok=True)
        raise ToolkitError(
            f"{path}: the weights cannot be written ({error}); make room on the disk"
        ) from error


def _match(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str
) -> tuple[WeightsReport, dict[str, Tensor]]:
    matched = {n: t for n, t in found.items() if n in own and own[n].shape == t.shape}
    report = WeightsReport(
        source,
        loaded=tuple(matched),
        missing=tuple(n for n in own if n not in found and not n.endswith(IGNORED)),
        unexpected=tuple(n for n in found if n not in own and not n.endswith(IGNORED)),
        mismatched=tuple(
            f"{n}: {tuple(t.shape)} in the file, {tuple(own[n].shape)} here"
            for n, t in found.items()
            if n in own and own[n].shape != t.shape
        ),
    )
    return report, matched


def _described(path: Path) -> str:
    """Describe the model in a file for a message; empty without metadata."""
    try:
        if path.suffix != ".safetensors":
            saved = read_checkpoint(path, shapes=True)
            return "" if saved is None else f". {saved.sentence()}"
        said = json.loads(read_metadata(path) or "")
        settings = {k: v for k, v in said["detector"].items() if v is not None}
        size, classes = said["manifest"]["input"], said["manifest"]["classes"]
        return (
            f". The file says that it holds {json.dumps(settings)} for "
            f"{counted(len(classes), 'class', 'classes')} ({_first(classes)}) and inputs of "
            f"{size['height']} x {size['width']}"
        )
    except (ToolkitError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""


def require_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors with NaN or infinite values.

    Raises:
        DataError: naming the first of them.
    """
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise DataError(
            f"{source}: {len(broken)} of {counted(len(tensors), 'tensor holds', 'tensors hold')} "
            "NaN or infinite "
            "values "
            f"({_first(broken)}); such a model finds nothing. Give weights from before it diverged"
        )


def _first(names: Iterable[str], count: int = 3) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def count_parameters(model: nn.Module) -> int:
    """Count the parameters of `model`, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())
