"""Pair a student with a teacher: who provides what, in which order, and under which names."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compress.batch import Batch
from compress.detector import Detector, DetectorSpec, Knowledge, Outputs

FEATURES: frozenset[Knowledge] = frozenset({"features"})


@dataclass(frozen=True)
class Term:
    """How one weighted term stands to the task loss.

    Attributes:
        value: of the term, weighted.
        ratio: value / task loss.
        gradient_ratio: norm of its gradient at the student's shared features / the task loss's.
    """

    name: str
    value: float
    ratio: float
    gradient_ratio: float


def check_pair(
    student: DetectorSpec, teacher: DetectorSpec, losses: Sequence[Any]
) -> list[tuple[int, str]]:
    """Say what keeps these losses from working on this pair: (index of the loss, problem)."""
    problems = []
    for index, loss in enumerate(losses):
        needs: frozenset[Knowledge] = loss.needs(student, teacher)
        for role, spec in (("student", student), ("teacher", teacher)):
            missing = needs - spec.provides
            if missing:
                problems.append(
                    (
                        index,
                        f"{loss.type} needs {', '.join(sorted(missing))}; {role} {spec.family!r} "
                        f"provides {', '.join(sorted(spec.provides))}",
                    )
                )
        if not any(found == index for found, _ in problems):
            problems += [(index, problem) for problem in loss.check(student, teacher)]
    sources = {loss.roi_source for loss in losses if "rois" in loss.needs(student, teacher)}
    if len(sources) > 1:
        problems.append((len(losses) - 1, "roi_source differs between the losses; use one"))
    return problems


class Distiller(nn.Module):
    """The training objective: a student's task losses, and what a teacher adds to them.

    The teacher is held outside the module tree, so it is in no `state_dict`, gets no gradient and
    no optimiser; it always runs in eval mode.
    """

    def __init__(
        self, student: Detector, teacher: Detector | None = None, losses: Sequence[Any] = ()
    ) -> None:
        super().__init__()
        self.student = student
        self._teacher = (teacher,)  # a tuple hides it from nn.Module
        self.losses = nn.ModuleList()
        self.names: list[str] = []
        self.wanted = FEATURES
        self.roi_source = "teacher"
        if teacher is not None:
            teacher.eval().requires_grad_(False)
            for config in losses:
                self.losses.append(config.build(student.spec, teacher.spec))
                self.names.append(_unique(config.type, self.names))
                needs = config.needs(student.spec, teacher.spec)
                self.wanted = self.wanted | needs
                if "rois" in needs:
                    self.roi_source = config.roi_source

    @property
    def teacher(self) -> Detector | None:
        """The teacher, if this run has one."""
        return self._teacher[0]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return named scalars: `task/<term>` and `<loss>/<term>`; their sum is to be minimised."""
        return self._terms(batch)[0]

    def _terms(self, batch: Batch) -> tuple[dict[str, Tensor], Outputs]:
        if not self.losses:
            student = self.student(batch, FEATURES)
            return {f"task/{name}": value for name, value in student.task_losses.items()}, student
        student, teacher = self._outputs(batch)
        terms = {f"task/{name}": value for name, value in student.task_losses.items()}
        for name, loss in zip(self.names, self.losses, strict=True):
            for term, value in loss(student, teacher, batch).items():
                terms[f"{name}/{term}"] = value
        return terms, student

    def _outputs(self, batch: Batch) -> tuple[Outputs, Outputs]:
        """Both models on the same batch; with RoIs in play, on the same proposals."""
        teacher = self.teacher
        assert teacher is not None
        teacher.eval()  # whatever the caller did to it in between
        if "rois" in self.wanted and self.roi_source == "student":
            student = self.student(batch, self.wanted)
            with torch.no_grad():
                return student, teacher(batch, self.wanted, rois=student.rois)
        with torch.no_grad():
            taught = teacher(batch, self.wanted)
        return self.student(batch, self.wanted, rois=taught.rois), taught

    def measure(self, batch: Batch) -> list[Term]:
        """Compare each distillation term with the task loss, without leaving a trace.

        Weights, buffers (BatchNorm statistics) and random state are put back afterwards.
        """
        with _untouched(self):
            terms, student = self._terms(batch)
            task = torch.stack([v for n, v in terms.items() if n.startswith("task/")]).sum()
            shared = [f for f in student.features if f.requires_grad]
            task_norm = _gradient_norm(task, shared)
            found = []
            for name, value in terms.items():
                if not name.startswith("task/"):
                    size = value.item()
                    ratio = size / max(task.item(), 1e-12)
                    gradient = _gradient_norm(value, shared) / max(task_norm, 1e-12)
                    found.append(Term(name, size, ratio, gradient))
        return found


def advice(terms: Sequence[Term], limit: float = 10.0) -> list[str]:
    """Warn of terms that would drown the task loss, or that do nothing at all."""
    lines = []
    for term in terms:
        worst = max(term.ratio, term.gradient_ratio)
        if worst > limit:
            lines.append(
                f"{term.name} is {term.ratio:.3g} times the task loss and its gradient at the "
                f"shared features {term.gradient_ratio:.3g} times; above {limit:g} it tends to "
                f"drown the labels: divide its weight by about {worst:.0f}"
            )
        elif term.gradient_ratio < 1e-3 and term.ratio < 1e-3:
            lines.append(
                f"{term.name} is {term.ratio:.2g} of the task loss (gradient "
                f"{term.gradient_ratio:.2g}) at the first step: it will hardly be felt"
            )
    return lines


def _gradient_norm(value: Tensor, at: Sequence[Tensor]) -> float:
    if not value.requires_grad or not at:
        return 0.0
    gradients = torch.autograd.grad(value, list(at), retain_graph=True, allow_unused=True)
    squares = [g.float().square().sum() for g in gradients if g is not None]
    return float(torch.stack(squares).sum().sqrt()) if squares else 0.0


def _unique(name: str, taken: Sequence[str]) -> str:
    count = sum(other.split("#")[0] == name for other in taken)
    return name if count == 0 else f"{name}#{count + 1}"


@contextlib.contextmanager
def _untouched(module: nn.Module) -> Iterator[None]:
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for name, value in module.named_buffers():
            value.copy_(buffers[name])
