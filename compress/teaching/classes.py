"""The teacher's classes as the student's: by name, or as the recipe maps them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.data.parts.class_names import composed
from compress.batch import ScoredBoxes
from export.detections import suppress
from export.errors import RecipeError, counted, shown
from export.reading.plain_yaml import dotted

_LISTED = 12  # names that a line shows
MERGING_IOU = 0.6  # of boxes of a class that several classes of the teacher give


class At(Protocol):
    """Gives the place of a teacher's setting, for messages."""

    def __call__(self, *keys: str | int) -> str:
        """Return the place by the keys in the teacher's section; without any, of the section."""


def in_section(*section: str | int) -> At:
    """Return what gives the places of a section's settings by their keys alone."""
    return lambda *keys: dotted((*section, *keys))


@dataclass(frozen=True)
class ClassMatch:
    """Which class of the student each class of the teacher is.

    Attributes:
        student: K names.
        teacher: names, in the order of the teacher's labels.
        label_of: the student's label of each of the teacher's, None for none.
    """

    student: tuple[str, ...]
    teacher: tuple[str, ...]
    label_of: tuple[int | None, ...]

    @property
    def untaught(self) -> tuple[str, ...]:
        """Classes of the student that the teacher does not have."""
        return tuple(n for label, n in enumerate(self.student) if label not in self.label_of)

    @property
    def unused(self) -> tuple[str, ...]:
        """Classes of the teacher that the student does not have."""
        pairs = zip(self.teacher, self.label_of, strict=True)
        return tuple(name for name, label in pairs if label is None)

    @property
    def merged(self) -> frozenset[int]:
        """Labels of the student that several classes of the teacher give."""
        return frozenset(
            label for label in self.label_of if label is not None and self.label_of.count(label) > 1
        )

    def lines(self) -> list[str]:
        """Say which classes match, and list those of both sides that do not."""
        taught = len(self.student) - len(self.untaught)
        said = [
            f"{taught} of the student's {counted(len(self.student), 'class', 'classes')} taught"
        ]
        said += [
            f"{self.student[label]} takes "
            + " and ".join(
                n for n, own in zip(self.teacher, self.label_of, strict=True) if own == label
            )
            for label in sorted(self.merged)
        ]
        if self.untaught:
            said.append(f"without a class of the teacher: {_listed(self.untaught)}")
        if self.unused:
            said.append(f"of the teacher alone, left out: {_listed(self.unused)}")
        return said

    def in_students_classes(
        self, boxes: NDArray[np.floating], labels: NDArray[np.integer], scores: NDArray[np.floating]
    ) -> ScoredBoxes:
        """Return the boxes of one picture under the student's labels, best first.

        Boxes of classes that the student does not have are left out. Of boxes of a class that
        several classes of the teacher give, one that overlaps a better one is left out.

        Args:
            boxes: (n, 4) xyxy.
            labels: (n,) the teacher's.
            scores: (n,).
        """
        table = np.array([-1 if one is None else one for one in self.label_of], dtype=np.int64)
        own = table[labels]
        order = np.flatnonzero(own >= 0)
        order = order[np.argsort(-scores[order], kind="stable")]
        if self.merged:
            several = np.isin(own[order], list(self.merged))
            part = order[several]
            kept = suppress(
                boxes[part].astype(np.float32), own[part].astype(np.int32), MERGING_IOU, len(part)
            )
            stays = ~several
            stays[np.flatnonzero(several)[kept]] = True
            order = order[stays]
        return ScoredBoxes(
            torch.from_numpy(boxes[order].astype(np.float32)),
            torch.from_numpy(own[order]),
            torch.from_numpy(scores[order].astype(np.float32)),
        )


def match_classes(
    student: Sequence[str],
    teacher: Sequence[str],
    class_map: Mapping[str, Sequence[str]],
    at: At,
) -> ClassMatch:
    """Match classes by name; `class_map` says which ones of the teacher a class takes instead.

    Args:
        student: K names.
        teacher: names, in the order of the teacher's labels.
        class_map: class of the student -> classes of the teacher, such as person -> pedestrian and
            rider.
        at: gives the place of one of the settings, for messages.

    Raises:
        RecipeError: the map names a class that is not there, or one of the teacher twice; or no
            class matches.
    """
    own, theirs = tuple(map(composed, student)), tuple(map(composed, teacher))
    asked = {composed(name): [composed(one) for one in n] for name, n in class_map.items()}
    _check_map(own, theirs, asked, at)
    given = {one: own.index(name) for name, names in asked.items() for one in names}
    by_name = {name: label for label, name in enumerate(own) if name not in asked}
    label_of = tuple(given.get(name, by_name.get(name)) for name in theirs)
    if all(label is None for label in label_of):
        raise RecipeError(
            f"{at()}: no class of the teacher ({_listed(theirs)}) has the name of one of the "
            f"student's ({_listed(own)}); say which are the same with class_map, such as "
            f"{{{own[0]}: [{theirs[0] if theirs else 'name'}]}}"
        )
    return ClassMatch(own, theirs, label_of)


def _check_map(
    own: Sequence[str], theirs: Sequence[str], asked: Mapping[str, Sequence[str]], at: At
) -> None:
    taken: dict[str, str] = {}
    for name, names in asked.items():
        if name not in own:
            raise RecipeError(
                f"{at('class_map')}: {shown(name)} is not a class of the student, which has "
                f"{_listed(own)}"
            )
        for one in names:
            if one not in theirs:
                raise RecipeError(
                    f"{at('class_map', name)}: {shown(one)} is not a class of the teacher, which "
                    f"has {_listed(theirs)}"
                )
            if one in taken:
                raise RecipeError(
                    f"{at('class_map')}: {shown(one)} is given to {taken[one]} and to {name}; a "
                    "class of the teacher is one of the student's"
                )
            taken[one] = name


def _listed(names: Sequence[str]) -> str:
    rest = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
    return (", ".join(names[:_LISTED]) or "none") + rest
