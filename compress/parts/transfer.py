"""Start from another detector's weights: copy what fits, leave the rest as it was drawn.

So a detector for seven classes can start from one that was trained on COCO's eighty. Rows that
stand for one class each follow the names of the classes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compress.detector import Detector
from compress.parts.weights import read_tensors, require_finite
from export.errors import RecipeError, counted


@dataclass(frozen=True)
class Transfer:
    """Which tensors a detector takes from a file.

    Attributes:
        source: the file.
        copied: names in the detector whose tensors are copied whole.
        by_class: names of those whose rows are copied by the names of classes.
        rows: own row and row in the file of each class that both know.
        random: names that keep their random values.
        share: copied values of all values, 0 to 1.
    """

    source: str
    copied: tuple[str, ...]
    by_class: tuple[str, ...]
    rows: tuple[tuple[int, int], ...]
    random: tuple[str, ...]
    share: float

    @property
    def complete(self) -> bool:
        """Whether most of the detector is copied, as from a file of the same network."""
        return self.share > 0.5

    def summary(self) -> str:
        """Return the counts and the first names that start from random weights."""
        total = len(self.copied) + len(self.by_class) + len(self.random)
        text = f"{len(self.copied)} of {counted(total, 'tensor')} copied"
        text += f" ({self.share:.1%} of the values)"
        if self.by_class:
            text += (
                f", and in {counted(len(self.by_class), 'layer tensor')} the rows of "
                f"{counted(len(self.rows), 'class', 'classes')} that both know"
            )
        if self.random:
            first = ", ".join(self.random[:3]) + (", ..." if len(self.random) > 3 else "")
            text += f"; {len(self.random)} start from random weights ({first})"
        return text


def transfer(
    detector: Detector,
    path: Path,
    known: Sequence[str] | None,
    rebuild: Callable[[int], Detector],
    *,
    copy: bool = True,
) -> Transfer:
    """Copy every tensor of a file that has an equal name and shape in the detector.

    Args:
        detector: changed in place; `spec.classes` are its classes.
        path: a local .safetensors, .pt or .pth file.
        known: the classes of the file, in the order of its labels; None where it states none.
        rebuild: builds such a detector for another number of classes.
        copy: whether to copy; else only names and shapes are read.

    Raises:
        RecipeError: there is no such file, or nothing in it fits.
        DataError: the file is damaged, or has values that are not finite.
    """
    found = detector.renamed(read_tensors(path, "transfer", shapes=not copy))
    own = detector.state_dict()
    fits = [name for name in own if name in found and found[name].shape == own[name].shape]
    rows, by_class = _class_rows(detector, found, known)
    of_classes = detector.class_rows()
    if not of_classes and tuple(known or ()) != detector.spec.classes:
        of_classes = sized_by_classes(detector, rebuild)
    copied = tuple(name for name in fits if name not in of_classes)
    chosen = {*copied, *by_class}
    values = sum(own[name].numel() for name in copied)
    report = Transfer(
        str(path),
        copied,
        by_class,
        rows,
        random=tuple(name for name in own if name not in chosen),
        share=values / sum(tensor.numel() for tensor in own.values()),
    )
    if not any(own[name].numel() > 1 for name in copied):  # a count of batches says nothing
        raise RecipeError(
            f"{path}: no tensor of it has the name and shape of one of this detector, so there is "
            f"nothing to transfer; it holds {counted(len(found), 'tensor')} "
            f"({', '.join(list(found)[:2])}, ...), the detector {len(own)} "
            f"({', '.join(list(own)[:2])}, ...). Give a file of the same family and size"
        )
    if copy:
        require_finite({name: found[name] for name in chosen}, str(path))
        with torch.no_grad():
            for name in copied:
                own[name].copy_(found[name])
            for name in by_class:
                for row, other in rows:
                    own[name][row] = found[name][other].to(own[name].dtype)
    return report


def _class_rows(
    detector: Detector, found: Mapping[str, Tensor], known: Sequence[str] | None
) -> tuple[tuple[tuple[int, int], ...], tuple[str, ...]]:
    """Match the classes of both by name; return their rows, and the tensors that have such rows."""
    own, places = detector.state_dict(), {name: row for row, name in enumerate(known or ())}
    classes = detector.spec.classes
    rows = tuple((row, places[name]) for row, name in enumerate(classes) if name in places)
    by_class = tuple(
        name
        for name in own
        if name in detector.class_rows()
        and name in found
        and found[name].shape == (len(places), *own[name].shape[1:])
    )
    return rows, by_class if rows else ()


def sized_by_classes(detector: Detector, rebuild: Callable[[int], Detector]) -> frozenset[str]:
    """Return the names of tensors whose shape depends on the number of classes.

    Args:
        detector: built for `spec.num_classes`.
        rebuild: builds such a detector for another number of classes.
    """
    own = detector.state_dict()
    with torch.random.fork_rng(devices=[]):
        more = rebuild(detector.spec.num_classes + 1).state_dict()
    return frozenset(name for name in own if own[name].shape != more[name].shape)
