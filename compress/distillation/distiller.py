"""The training objective: a student's task losses and the distillation losses of a teacher."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compress.batch import Batch
from compress.data.taught import Taught
from compress.data.views import Views
from compress.detector import BEFOREHAND, FEATURES, Detector, Knowledge, Outputs, Rois
from compress.distillation.balance import Balance
from compress.distillation.teacher import LiveTeacher, TeacherPrecision, Teaching
from compress.losses.parts.loss import DistillationLoss, LossSection, RoiSource
from compress.parts.processes import mean_over_processes, process_count, sum_over_processes
from compress.training.objective import Objective, SeparateTraining, Term

if TYPE_CHECKING:
    from compress.losses.parts.classifier import Classifier


@dataclass(frozen=True)
class Method:
    """One entry of `distill`, built for a pair.

    Attributes:
        name: `type`, and `#2`, `#3`, ... for the further entries of the same type.
        config: its settings.
        loss: the module; also in `Distiller.losses`.
        balance: measures the factor of `weight: auto`; None for a fixed weight.
    """

    name: str
    config: LossSection
    loss: DistillationLoss
    balance: Balance | None


class Distiller(Objective):
    """The training objective: a student's task losses and the distillation losses.

    The teacher is held outside the module tree, so it is in no `state_dict`, gets no gradient and
    no optimiser. A loss whose schedule is at 0 is not computed, nor are outputs that only it needs.

    Args:
        student: the detector to train.
        teacher: what it learns from; a detector runs in every step.
        losses: the entries of `distill`.
        precision: number format of the teacher's forward pass.
        classifier: classifier of object crops, for the losses that need one.
    """

    student: Detector

    def __init__(
        self,
        student: Detector,
        teacher: Detector | Teaching | None = None,
        losses: Sequence[LossSection] = (),
        *,
        precision: TeacherPrecision = "train",
        classifier: "Classifier | None" = None,
    ) -> None:
        super().__init__()
        self.student = student
        if isinstance(teacher, Detector):
            teacher = LiveTeacher(teacher, student.spec, precision)
        self._teacher = teacher
        self.methods: list[Method] = []
        self.losses = nn.ModuleList()  # the methods' modules, for parameters and state
        self.balances = nn.ModuleDict()
        self.roi_source: RoiSource = "teacher"
        self._step, self._total = 0, 1
        self._measure = False
        self._measured: list[Term] = []
        if teacher is not None:
            for config in losses:
                loss = config.build(student.spec, teacher.spec)
                name = _unique(config.type, [method.name for method in self.methods])
                auto = Balance(config.ratio, config.window) if config.weight == "auto" else None
                self.methods.append(Method(name, config, loss, auto))
                self.losses.append(loss)
                if auto is not None:
                    self.balances[name] = auto
                if "rois" in loss.teacher_needs:
                    self.roi_source = config.proposals_from()
                if classifier is not None:
                    loss.use_classifier(classifier)

    @property
    def teacher(self) -> Detector | None:
        """The teacher's network, if one is passed in every step."""
        return None if self._teacher is None else self._teacher.network

    @property
    def frozen(self) -> tuple[Detector, ...]:
        """The networks that the training may not change, the teacher first."""
        return () if self._teacher is None else self._teacher.frozen

    @property
    def views(self) -> Views | None:
        """The views of the pictures that a stored teacher knows; None for any pictures."""
        return None if self._teacher is None else self._teacher.views

    @property
    def taught(self) -> Taught | None:
        """The boxes that the teacher found beforehand, where a loss compares them."""
        return None if self._teacher is None else self._teacher.taught

    @property
    def _source(self) -> Teaching:
        assert self._teacher is not None
        return self._teacher

    @property
    def wanted(self) -> frozenset[Knowledge]:
        """The outputs that the student computes at this step."""
        return FEATURES.union(*(method.loss.needs for method, _ in self._active()))

    @property
    def wanted_of_teacher(self) -> frozenset[Knowledge]:
        """The outputs that the teacher computes at this step; it does not run for an empty set."""
        nothing: frozenset[Knowledge] = frozenset()
        asked = nothing.union(*(method.loss.teacher_needs for method, _ in self._active()))
        return asked - BEFOREHAND

    def auto_weights(self) -> dict[str, float]:
        """Return the factor that `weight: auto` has measured, by loss."""
        return {m.name: m.balance.factor for m in self.methods if m.balance is not None}

    def at(self, step: int, total: int, *, measure: bool = False) -> None:
        """See `Objective.at`."""
        self._step, self._total, self._measure = step, total, measure
        self.student.at(step, total)
        for method in self.methods:
            method.loss.at(step, total)

    def measured(self) -> list[Term]:
        """See `Objective.measured`."""
        return self._measured

    def watched(self) -> frozenset[str]:
        """Return the names of the losses that are active at this step."""
        return frozenset(method.name for method, _ in self._active())

    def phase(self, step: int, total: int) -> object:
        """Return what tells steps of different cost apart: the active losses and their phases."""
        self.at(step, total)
        return tuple((method.name, method.loss.phase()) for method, _ in self._active())

    def separate(self) -> list[SeparateTraining]:
        """See `Objective.separate`."""
        found = [method.loss.separate() for method in self.methods]
        return [one for one in found if one is not None]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return named scalars: `task/<term>` and `<loss>/<term>`; their sum is to be minimised."""
        terms, shared = self._terms(batch)
        self._measured = self._compare(terms, shared) if self._measure and self.losses else []
        return terms

    def _active(self) -> list[tuple[Method, float]]:
        """Return the methods whose schedule is not at 0 at this step, and their factors."""
        scheduled = [(m, m.config.factor_at(self._step, self._total)) for m in self.methods]
        return [(method, factor) for method, factor in scheduled if factor]

    def _terms(self, batch: Batch) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Return all terms, and the student's pyramids that they were computed from."""
        active = self._active()
        if not active:
            student = self.student(batch, FEATURES)
            terms = {f"task/{name}": value for name, value in student.task_losses.items()}
            return self._attach_idle(terms), list(student.features)
        for method, _ in active:
            batch = method.loss.disturb(batch)
        student, teacher = self._outputs(batch)
        terms = {f"task/{name}": value for name, value in student.task_losses.items()}
        task = torch.stack(list(terms.values())).sum()
        shared = list(student.features)
        for method, factor in active:
            loss = method.loss
            own: dict[str, Tensor] = loss(student, teacher, batch)
            view = loss.view(batch, self._source.task_losses)
            if view is not None:
                maps = self.student.maps(view.images)
                own |= loss.forward_view(
                    Outputs(maps), Outputs(self._source.maps(view.images)), view
                )
                shared += maps
            weighted = {term: own[term] for term in own if term not in loss.unweighted}
            if method.balance is not None:
                if self.training:
                    method.balance.observe(task, torch.stack(list(weighted.values())).sum())
                factor = factor * method.balance.factor
            for term, value in own.items():
                as_is = factor == 1.0 or term not in weighted
                terms[f"{method.name}/{term}"] = value if as_is else factor * value
        return self._attach_idle(terms), shared

    def _attach_idle(self, terms: dict[str, Tensor]) -> dict[str, Tensor]:
        """Attach the adapters of inactive losses to the graph, as DDP waits for all gradients."""
        if process_count() == 1:
            return terms
        active = {method.name for method, _ in self._active()}
        resting = (method.loss for method in self.methods if method.name not in active)
        idle = [parameter for loss in resting for parameter in loss.parameters()]
        if idle:
            first = next(iter(terms))
            terms[first] = terms[first] + 0 * torch.stack([p.sum() for p in idle]).sum()
        return terms

    def _outputs(self, batch: Batch) -> tuple[Outputs, Outputs]:
        """Run both models on the same batch and, if RoIs are compared, on the same proposals."""
        wanted, of_teacher = self.wanted, self.wanted_of_teacher
        if not of_teacher:
            return self.student(batch, wanted), Outputs(())
        if "rois" in of_teacher and self.roi_source == "student":
            student = self.student(batch, wanted)
            student = replace(student, rois=self.compared(student.rois))
            return student, self._source.outputs(batch, of_teacher, student.rois)
        taught = self._source.outputs(batch, of_teacher)
        taught = replace(taught, rois=self.compared(taught.rois))
        return self.student(batch, wanted, rois=taught.rois), taught

    def compared(self, rois: Rois | None) -> Rois | None:
        """Return the proposals that some loss compares at this step, for both models."""
        if rois is None:
            return None
        asked = [
            method.loss.compared(rois)
            for method, _ in self._active()
            if "rois" in method.loss.needs
        ]
        chosen = [kept for kept in asked if kept is not None]
        if not asked or len(chosen) < len(asked):
            return rois
        return rois.only(torch.stack(chosen).any(dim=0))

    def measure(self, batch: Batch) -> list[Term]:
        """Compare each distillation term with the task loss, without side effects.

        Buffers (BatchNorm statistics) and random state are restored afterwards.
        """
        with _untouched(self):
            return self._compare(*self._terms(batch))

    def _compare(self, terms: dict[str, Tensor], maps: Sequence[Tensor]) -> list[Term]:
        task = torch.stack([v for n, v in terms.items() if n.startswith("task/")]).sum()
        shared = [f for f in maps if f.requires_grad]
        task_size, task_norm = float(mean_over_processes(task)), _gradient_norm(task, shared)
        found = []
        apart = {f"{m.name}/{term}" for m in self.methods for term in m.loss.unweighted}
        for name, value in terms.items():
            if not name.startswith("task/") and name not in apart:
                size = float(mean_over_processes(value))
                ratio = size / max(task_size, 1e-12)
                gradient = _gradient_norm(value, shared) / max(task_norm, 1e-12)
                found.append(Term(name, size, ratio, gradient))
        return found

    @torch.no_grad()
    def explain(self, batch: Batch) -> str:
        """Name the levels whose maps are not finite, or else the largest value of each model."""
        models: list[tuple[str, Detector]] = [("student", self.student)]
        if self.teacher is not None and self.losses:
            models.append(("teacher", self.teacher))
        said = []
        for role, model in models:
            features = model.maps(batch.images)
            largest = [float(f.float().abs().max()) for f in features]
            broken = [
                str(stride)
                for stride, f in zip(model.spec.strides, features, strict=True)
                if not bool(f.isfinite().all())
            ]
            if broken:
                said.append(f"the {role}'s maps of stride {', '.join(broken)} are not finite")
            else:
                top = max(range(len(largest)), key=largest.__getitem__)
                said.append(
                    f"the {role}'s maps are finite, at most {largest[top]:.3g} "
                    f"(stride {model.spec.strides[top]})"
                )
        return "; ".join(said)


def advice(terms: Sequence[Term], limit: float = 10.0) -> list[str]:
    """Return warnings about terms that dominate the task loss or are negligible."""
    lines = []
    for term in terms:
        worst = max(term.ratio, term.gradient_ratio)
        if worst > limit:
            lines.append(
                f"{term.name} is {term.ratio:.3g} times the task loss and its gradient at the "
                f"shared features {term.gradient_ratio:.3g} times; above {limit:g} it tends to "
                f"outweigh the labels: divide its weight by about {worst:.0f}, or set weight: auto"
            )
        elif term.gradient_ratio < 1e-3 and term.ratio < 1e-3:
            lines.append(
                f"{term.name} is {term.ratio:.2g} of the task loss (gradient "
                f"{term.gradient_ratio:.2g}) at the first step: it will have hardly any effect"
            )
    return lines


def _gradient_norm(value: Tensor, at: Sequence[Tensor]) -> float:
    """Return the norm of the gradient at the maps of the whole batch."""
    if not value.requires_grad or not at:
        return 0.0
    gradients = torch.autograd.grad(value, list(at), retain_graph=True, allow_unused=True)
    squares = [value.new_zeros(()), *(g.float().square().sum() for g in gradients if g is not None)]
    # each map's gradient is that of the mean over the processes, times their number
    total = sum_over_processes(torch.stack(squares).sum())
    return float(total.sqrt()) / process_count()


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
