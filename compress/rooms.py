"""How the folders in `models/` are called, and what their names say."""

import re


def teacher_name(index: int) -> str:
    """`teacher`, `teacher2`, ... in the order in which they teach."""
    return "teacher" if index == 0 else f"teacher{index + 1}"


def stage_names(seed: int, role: str, stages: int) -> list[str]:
    """The rooms of one student's trainings, one after the other; the last is the finished one."""
    name = f"seed{seed}-{role}"
    return [*(f"{name}-stage{stage}" for stage in range(1, stages)), name]


def role_of(name: str) -> str:
    """Return teacher, student, baseline or baseline_equal_time; `student stage 1` on the way."""
    return name.partition("-")[2].replace("-stage", " stage ") or name.rstrip("0123456789")


def is_finished_model(name: str) -> bool:
    """Whether the room holds a model to measure: not a stage on the way to one."""
    return re.search(r"-stage\d+$", name) is None
