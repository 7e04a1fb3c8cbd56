"""Pair the maps of two detectors by stride, never by index."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from compress.detector import DetectorSpec, Knowledge
from export.errors import RecipeError, counted


@dataclass(frozen=True)
class LevelPairs:
    """Indices of the maps to compare, finest first.

    Attributes:
        strides: the L shared strides, input pixels per cell.
        student: L indices into the student's maps.
        teacher: L indices into the teacher's maps.
        dropped: one sentence per side that has maps the other lacks; empty when all are paired.
    """

    strides: tuple[int, ...]
    student: tuple[int, ...]
    teacher: tuple[int, ...]
    dropped: tuple[str, ...] = ()

    def select(
        self, student: Sequence[Tensor], teacher: Sequence[Tensor]
    ) -> list[tuple[Tensor, Tensor]]:
        """Return the L pairs; a student map one cell off is resized to the teacher's size."""
        return [
            (resize_like(student[i], teacher[j]), teacher[j])
            for i, j in zip(self.student, self.teacher, strict=True)
        ]

    def channels(self, student: Sequence[int], teacher: Sequence[int]) -> list[tuple[int, int]]:
        """Return the L pairs of channel counts, student's first."""
        return [(student[i], teacher[j]) for i, j in zip(self.student, self.teacher, strict=True)]


def check_classes(student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
    """Say why the two models' class scores cannot be compared, if they cannot.

    A teacher that has all of the student's classes by name and more is accepted: the distiller
    selects the student's columns, and the spec given here has the same classes.
    """
    if student.classes and teacher.classes and student.classes != teacher.classes:
        missing = [name for name in student.classes if name not in teacher.classes]
        return [
            f"class scores are compared, but the teacher does not know the student's classes "
            f"{', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} (it knows "
            f"{', '.join(teacher.classes[:8])}{' ...' if len(teacher.classes) > 8 else ''}); give "
            "it all of them by the same names, or use a loss on features alone"
        ]
    if student.num_classes != teacher.num_classes:
        return [
            f"the student has {counted(student.num_classes, 'class', 'classes')} and the teacher "
            f"{teacher.num_classes}; their class scores cannot be compared"
        ]
    return []


def check_levels(student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
    """Say why the two pyramids' maps cannot be compared, because they share no level."""
    try:
        pair_levels(student, teacher)
    except RecipeError as error:
        return [str(error)]
    return []


def both_provide(student: DetectorSpec, teacher: DetectorSpec, knowledge: Knowledge) -> bool:
    """Whether both detectors provide `knowledge`."""
    return knowledge in student.provides and knowledge in teacher.provides


def check_locations(student: DetectorSpec, teacher: DetectorSpec) -> list[str]:
    """Say why the two models' dense predictions cannot be compared place by place, if so."""
    if student.locations == teacher.locations:
        return []
    return [
        "predictions are compared place by place, but the student's are at "
        f"{student.locations!r} and the teacher's at {teacher.locations!r}; "
        "give both the same family, levels and anchors"
    ]


def pair_levels(student: DetectorSpec, teacher: DetectorSpec) -> LevelPairs:
    """Pair the pyramids' levels.

    Raises:
        RecipeError: they share no stride.
    """
    pairs = pair_strides(student.strides, teacher.strides)
    if not pairs.strides:
        raise RecipeError(
            f"student {student.family} has pyramid levels of strides {listed(student.strides)}, "
            f"teacher {teacher.family} of {listed(teacher.strides)}: none is shared, so there is "
            "nothing to imitate; give both the same pyramid levels"
        )
    return pairs


def pair_strides(student: Sequence[int], teacher: Sequence[int]) -> LevelPairs:
    """Pair two lists of strides; without a shared one the result is empty."""
    shared = sorted(set(student) & set(teacher))
    dropped = []
    for role, strides in (("student", student), ("teacher", teacher)):
        alone = sorted(set(strides) - set(shared))
        if alone:
            dropped.append(f"the {role}'s maps of stride {listed(alone)} have no partner")
    return LevelPairs(
        strides=tuple(shared),
        student=tuple(list(student).index(stride) for stride in shared),
        teacher=tuple(list(teacher).index(stride) for stride in shared),
        dropped=tuple(dropped),
    )


def resize_like(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the student's map (B, C, H, W) at the teacher's height and width.

    Both maps come from the same padded pictures, so at equal stride they differ by at most one
    cell, from rounding up or down.

    Raises:
        ValueError: the sizes differ by more, so one spec states a wrong stride.
    """
    size = teacher.shape[-2:]
    if student.shape[-2:] == size:
        return student
    if max(abs(a - b) for a, b in zip(student.shape[-2:], size, strict=True)) > 1:
        raise ValueError(
            f"maps of equal stride have sizes {tuple(student.shape[-2:])} and {tuple(size)}; "
            "one detector's spec states a wrong stride"
        )
    return functional.interpolate(student, size=size, mode="bilinear", align_corners=False)


def listed(strides: Sequence[int]) -> str:
    """Write strides for a message."""
    return ", ".join(str(stride) for stride in strides) or "none"
