"""Distillation of pyramid maps in other frameworks, for `benchmarks.studies.kd_step --peers`.

Each is used as documented, on the student and teacher of our own step, so that only the framework
differs. torchdistill leaves the teacher in train mode, so eval mode is set here; Model
Optimizer requires balancer weights that sum to less than 1. Both run the whole teacher, and compare
those levels of the pyramid that are a module's output. Ultralytics distils its own networks, here
with the weights of ours; on a CPU its trainer computes in fp32, which is so here.
"""

import copy
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from compress.batch import Batch
from compress.detector import Candidates, Detector
from compress.detectors.small_pairs import NAMED
from compress.detectors.ultralytics_parts.package import load_package, whole_network
from export.errors import MissingDependencyError

PEERS = {  # and the package that each needs
    "torchdistill": "torchdistill",
    "modelopt": "nvidia-modelopt",
    "ultralytics": "ultralytics-opencv-headless",
}
MODULES = {
    "torchdistill": "torchdistill.core.distillation",
    "modelopt": "modelopt.torch.distill",
    "ultralytics": "ultralytics",
}
USUAL_PEERS = ("torchdistill", "modelopt")
Config = dict[str, object]  # of torchdistill

LEARNING_RATE, MOMENTUM = 1e-6, 0.9


def require_peers(names: Sequence[str] = USUAL_PEERS) -> None:
    """Import other frameworks.

    Raises:
        MissingDependencyError: one of them is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                if name == "ultralytics":
                    load_package()  # its import changes the process; this undoes that
                else:
                    importlib.import_module(MODULES[name])
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"--peers needs other frameworks, which cannot be imported ({error}). "
            f"Install them with: pip install {' '.join(PEERS[name] for name in names)}"
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


def peer_steps(
    peer: str, student: Detector, teacher: Detector, batch: Batch
) -> dict[str, Callable[[], None]]:
    """Return whole training steps in one of `PEERS` by name; the models are copied first.

    Ultralytics has a plain one too; none for detectors that are not its own.
    """
    if peer == "ultralytics":
        return _ultralytics(student, teacher, batch)
    own = AsTheyExpect(copy.deepcopy(student), batch)
    other = AsTheyExpect(copy.deepcopy(teacher), batch)
    paths = map_modules(own, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make = _torchdistill if peer == "torchdistill" else _modelopt
        return {peer: make(own, other, batch, paths)}


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


def _ultralytics(
    student: Detector, teacher: Detector, batch: Batch
) -> dict[str, Callable[[], None]]:
    if student.spec.family != "yolo":
        return {}
    load_package()
    from ultralytics.nn.distill_model import DistillationModel

    small, large = NAMED["yolo"]
    given = _as_ultralytics(batch)
    distilled = DistillationModel(
        _theirs(teacher, large, batch).eval(), _theirs(student, small, batch)
    )
    models = {"ultralytics plain": _theirs(student, small, batch), "ultralytics": distilled}
    return {
        name: partial(_step_of, model.train(), given, _sgd(model)) for name, model in models.items()
    }


def _theirs(detector: Detector, model: str, batch: Batch) -> Any:
    """Return Ultralytics' own network with the weights of ours, as its trainer sets it up."""
    whole: Any = whole_network(model, detector.spec.num_classes)
    own = detector.state_dict()
    named = detector.renamed(whole.state_dict())
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(own[name])
    gains = load_package().gains
    whole.args = SimpleNamespace(**gains, epochs=100, imgsz=batch.images.shape[-1], dis=6.0)
    return whole.to(batch.images.device)


def _as_ultralytics(batch: Batch) -> dict[str, Tensor]:
    """Return a batch as its losses take it: boxes as centre, width and height in shares."""
    height, width = batch.images.shape[-2:]
    boxes = torch.cat([target.boxes for target in batch.targets])
    sides = boxes.new_tensor([width, height, width, height])
    counts = torch.tensor([len(target.boxes) for target in batch.targets])
    owners = torch.repeat_interleave(torch.arange(len(counts)), counts)
    return {
        "img": batch.images.contiguous(),
        "batch_idx": owners.to(boxes),
        "cls": torch.cat([target.labels for target in batch.targets]).to(boxes).unsqueeze(1),
        "bboxes": box_convert(boxes, "xyxy", "cxcywh") / sides,
    }


def _sgd(model: nn.Module) -> torch.optim.Optimizer:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.SGD(trained, lr=LEARNING_RATE, momentum=MOMENTUM)


def _step_of(model: nn.Module, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
    losses, _ = model(batch)
    optimizer.zero_grad()
    losses.sum().backward()
    optimizer.step()
