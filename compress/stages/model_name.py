"""Names of a run's models, as used for folders, row keys and training records."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from typing_extensions import Self

Role = Literal["teacher", "baseline", "baseline_equal_time", "student"]

_TEACHER = re.compile(r"teacher(?P<number>[2-9]|[1-9]\d+)?")
_STUDENT = re.compile(
    rf"seed(?P<seed>\d+)-(?P<role>{'|'.join(get_args(Role)[1:])})(-stage(?P<stage>\d+))?"
)


@dataclass(frozen=True)
class ModelName:
    """The name of one model of a run.

    `str` gives the folder in `models/`: `teacher`, `teacher2`, `seed0-student`, and
    `seed0-student-stage1` for a training that another one continues.

    Attributes:
        seed: seed of the training; None for a teacher, which all seeds share.
        role: what the model is for.
        stage: number of a stage, from 1. Of a teacher, that in which it teaches; of a student, that
            which ended with these weights, or None for the finished student.
    """

    seed: int | None
    role: Role
    stage: int | None = None

    @classmethod
    def of_teacher(cls, index: int) -> Self:
        """Name the teacher at `index`, from 0, of the recipe."""
        return cls(None, "teacher", index + 1)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the name of a folder in `models/`.

        Raises:
            ValueError: `text` is not such a name.
        """
        if found := _TEACHER.fullmatch(text):
            return cls(None, "teacher", int(found["number"] or 1))
        found = _STUDENT.fullmatch(text)
        role: Role | None = next((r for r in get_args(Role) if found and r == found["role"]), None)
        if found is None or role is None:
            raise ValueError(
                f"{text!r} is not the name of a model; expected teacher, teacher2, seed0-student"
            )
        return cls(int(found["seed"]), role, int(found["stage"]) if found["stage"] else None)

    def __str__(self) -> str:
        """Spell the name."""
        if self.role == "teacher":
            return "teacher" if self.stage in {None, 1} else f"teacher{self.stage}"
        stage = "" if self.stage is None else f"-stage{self.stage}"
        return f"seed{self.seed}-{self.role}{stage}"

    @property
    def finished(self) -> bool:
        """Whether the model is exported and measured; False for a stage before the last."""
        return self.role == "teacher" or self.stage is None

    @property
    def title(self) -> str:
        """The name without its seed: `teacher2`, `student`, `student stage 1`."""
        if self.role == "teacher":
            return str(self)
        return self.role if self.stage is None else f"{self.role} stage {self.stage}"

    def key(self, backend: str, precision: str) -> str:
        """Name one row of the report: `seed0-student-onnxruntime-int8`."""
        return f"{self}-{backend}-{precision}"


def stages_of(seed: int, role: Role, count: int) -> list[ModelName]:
    """Name the `count` trainings of one student, in order; the last is the finished model."""
    before = [ModelName(seed, role, stage) for stage in range(1, count)]
    return [*before, ModelName(seed, role)]
