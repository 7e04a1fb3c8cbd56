"""Distillation of pyramid maps in other frameworks, for `benchmarks.studies.kd_step --peers`.

Each is used as documented, on the student and teacher of our own step, so that only the framework
differs. torchdistill leaves the teacher in train mode, so eval mode is set here; Model
Optimizer requires balancer weights that sum to less than 1. Both run the whole teacher, and compare
those levels of the pyramid that are a module's output.
"""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from compress.batch import Batch
from compress.detector import Candidates, Detector
from export.errors import MissingDependencyError

PEERS = {"torchdistill": "torchdistill", "modelopt": "nvidia-modelopt"}
Config = dict[str, object]  # of torchdistill

LEARNING_RATE, MOMENTUM = 1e-6, 0.9


def require_peers() -> None:
    """Import both frameworks.

    Raises:
        MissingDependencyError: one of them is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import modelopt.torch.distill  # noqa: F401
            import torchdistill.core.distillation  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"--peers needs other frameworks, which cannot be imported ({error}). "
            f"Install them with: pip install {' '.join(PEERS.values())}"
        ) from None


class AsTheyExpect(nn.Module):
    """A detector that takes pictures and targets, and returns losses or, in eval mode, boxes."""

    def __init__(self, detector: Detector, batch: Batch) -> None:
        super().__init__()
        self.detector, self.batch = detector, batch

    def forward(self, images: Tensor, _targets: object) -> "Mapping[str, Tensor] | Candidates":
        """Pass the one batch of this benchmark."""
        return self.detector(self.batch).task_losses if self.training else self._boxes(images)

    def _boxes(self, images: Tensor) -> Candidates:
        return self.detector.candidates(images)


def peer_step(peer: str, student: Detector, teacher: Detector, batch: Batch) -> Callable[[], None]:
    """Return a whole training step in one of `PEERS`; the models are copied first."""
    own = AsTheyExpect(copy.deepcopy(student), batch)
    other = AsTheyExpect(copy.deepcopy(teacher), batch)
    paths = map_modules(own, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = _torchdistill if peer == "torchdistill" else _modelopt
        return make(own, other, batch, paths)


@torch.no_grad()
def map_modules(model: AsTheyExpect, batch: Batch) -> list[str]:
    """Return the paths of the modules whose output is a level of the pyramid, finest first."""
    found: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor):
                found.append((name, output))

        return hook

    handles = [m.register_forward_hook(keep(name)) for name, m in model.named_modules() if name]
    model.eval()
    try:
        features = model.detector(batch).features
    finally:
        for handle in handles:
            handle.remove()
    paths = (next((name for name, out in found if out is level), None) for level in features)
    return [path for path in paths if path is not None]


def _torchdistill(
    student: AsTheyExpect, teacher: AsTheyExpect, batch: Batch, paths: Sequence[str]
) -> Callable[[], None]:
    from torchdistill.core.distillation import get_distillation_box

    def end(*, of_teacher: bool, path: str) -> Config:
        return {"is_from_teacher": of_teacher, "module_path": path, "io": "output"}

    def term(path: str) -> Config:
        ends = {
            "input": end(of_teacher=False, path=path),
            "target": end(of_teacher=True, path=path),
        }
        return {
            "criterion": {"key": "MSELoss", "kwargs": {"reduction": "mean"}},
            "criterion_wrapper": {"key": "SimpleLossWrapper", "kwargs": ends},
            "weight": 1.0,
        }

    def side(*, trained: bool) -> Config:
        return {
            "forward_proc": "forward_batch_target",
            "sequential": [],
            "frozen_modules": [],
            "wrapper": None,
            "forward_hook": {"input": [], "output": list(paths)},
            "requires_grad": trained,
        }

    loader = {
        "dataset_id": "one",
        "sampler": {"class_or_func": torch.utils.data.SequentialSampler, "kwargs": {}},
        "kwargs": {"batch_size": 1},
        "cache_output": None,
    }
    config = {
        "num_epochs": 1,
        "train_data_loader": loader,
        "teacher": side(trained=False),
        "student": side(trained=True),
        "optimizer": {"key": "SGD", "kwargs": {"lr": LEARNING_RATE, "momentum": MOMENTUM}},
        "criterion": {
            "key": "WeightedSumLoss",
            "func2extract_model_loss": "extract_model_loss_dict",
            "kwargs": {
                "model_term": {"weight": 1.0},
                "sub_terms": {path: term(path) for path in paths},
            },
        },
    }
    device = batch.images.device
    data = {"one": torch.utils.data.TensorDataset(torch.zeros(1), torch.zeros(1))}
    box = get_distillation_box(teacher, student, data, config, device, None, False, 1)
    box.pre_epoch_process(epoch=0)

    def step() -> None:
        box.teacher_model.eval()
        loss = box.forward_process(batch.images, batch.targets, None)
        box.post_forward_process(loss=loss)

    return step


def _modelopt(
    student: AsTheyExpect, teacher: AsTheyExpect, batch: Batch, paths: Sequence[str]
) -> Callable[[], None]:
    import modelopt.torch.distill as mtd

    settings = {
        "teacher_model": teacher,
        "criterion": {(path, path): nn.MSELoss() for path in paths},
        "loss_balancer": mtd.StaticLossBalancer([0.9 / len(paths)] * len(paths)),
    }
    model = mtd.convert(student, mode=[("kd_loss", settings)])
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=MOMENTUM)

    def step() -> None:
        model.train()
        losses = model(batch.images, batch.targets)
        loss = model.compute_kd_loss(student_loss=torch.stack(list(losses.values())).sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
