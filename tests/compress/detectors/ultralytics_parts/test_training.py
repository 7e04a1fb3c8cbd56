"""Training of the package's models: the clock of a YOLO26, copies, precision, cut trainings."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.batch import Batch
from compress.detector import Detector
from compress.detectors.small_pairs import build_small, small_settings
from compress.detectors.ultralytics_parts.installed import is_installed
from compress.detectors.yolo import Yolo
from compress.distillation.distiller import Distiller
from compress.training.ema import Ema
from tests.compress.detectors.small import small_batch, small_detector
from tests.compress.training.test_loop import fit, same
from tests.contracts.together import LOSS

pytestmark = [
    pytest.mark.usefixtures("small_rtdetr"),
    pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed"),
]
STEPS = 4


def yolo(model: str) -> Yolo:
    made = small_detector("yolo", model=model)
    assert isinstance(made, Yolo)
    return made


@pytest.fixture(scope="module")
def planned() -> Yolo:
    with torch.device("meta"):
        made = build_small(small_settings("yolo", model="yolo26n"))
    assert isinstance(made, Yolo)
    return made


def test_the_weight_of_the_one_to_many_branch_depends_on_step_and_length_alone(
    planned: Yolo,
) -> None:
    def at(step: int, total: int) -> float:
        planned.at(step, total)
        return planned.many

    forth = [at(step, 8) for step in range(8)]
    assert forth[0] == pytest.approx(0.8)
    assert forth[-1] == pytest.approx(0.1)
    assert forth == sorted(forth, reverse=True)
    assert len(set(forth)) == 8
    assert [at(step, 8) for step in reversed(range(8))] == forth[::-1]
    assert at(0, 1) == pytest.approx(0.8)  # a training of one step
    assert at(20, 8) == pytest.approx(0.1)  # beyond the end
    assert not any("many" in name for name in planned.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("model", ["yolo11n", "yolo26n"])
def test_a_copy_shares_no_tensor_and_gives_the_same(model: str) -> None:
    detector = yolo(model)
    copy = deepcopy(detector)
    pointers = {one.data_ptr() for one in (*copy.parameters(), *copy.buffers())}
    own = {one.data_ptr() for one in (*detector.parameters(), *detector.buffers())}
    assert not pointers & own
    assert not {id(one) for one in copy.modules()} & {id(one) for one in detector.modules()}
    batch = small_batch()
    for name, value in copy(batch).task_losses.items():
        assert torch.equal(value, detector(batch).task_losses[name])


@pytest.mark.slow
@pytest.mark.parametrize("model", ["yolo11n", "yolo26n"])
def test_models_of_a_process_share_no_layer(model: str) -> None:
    """The package gives all its layers one activation; a hook on one must not run for others."""
    first, second = yolo(model), yolo(model)
    assert not {id(one) for one in first.modules()} & {id(one) for one in second.modules()}
    activations = [one for one in first.modules() if isinstance(one, nn.SiLU)]
    named = list(first.named_modules(remove_duplicate=False))
    assert len(activations) == sum(isinstance(one, nn.SiLU) for _, one in named)


@pytest.mark.slow
def test_an_average_of_equal_weights_finds_the_same_boxes() -> None:
    detector = yolo("yolo26n")
    average = Ema(detector, 0.9)
    average.update(detector)
    images = small_batch().images
    with torch.no_grad():
        found, expected = average.model.candidates(images), detector.eval().candidates(images)
    assert torch.equal(found.boxes, expected.boxes)
    assert torch.equal(found.scores, expected.scores)


def objective(model: str) -> Distiller:
    """Build a seeded objective: an RT-DETR alone, or a YOLO with a larger one."""
    if model.startswith("rtdetr"):
        return Distiller(small_detector("rtdetr", model=model), None, [])
    losses = [{"type": "pkd"}, {"type": "mgd", "weight": "auto"}]
    teacher: Detector = yolo(f"{model[:-1]}s")
    return Distiller(yolo(model), teacher, [LOSS.validate_python(one) for one in losses])


def batches(first: int, count: int) -> Iterator[Batch]:
    for step in range(first, first + count):
        yield small_batch((2, step % 2))


class CutError(Exception):
    pass


def cut(first: int, count: int) -> Iterator[Batch]:
    yield from batches(first, min(count, 2 - first))
    raise CutError


@pytest.mark.slow
@pytest.mark.parametrize("model", ["yolo26n", "rtdetr-l"])
def test_a_training_cut_in_its_middle_ends_as_one_that_was_not(tmp_path: Path, model: str) -> None:
    settings: Any = {"steps": STEPS, "ema": 0.9, "evaluations": 1, "lr": 1e-4, "warmup": 0}
    settings["checkpoint_every_s"] = 1e-9
    whole = fit(tmp_path / "whole", batches, objective=objective(model), **settings)
    with pytest.raises(CutError):
        fit(tmp_path / "cut", cut, objective=objective(model), **settings)
    resumed = fit(tmp_path / "cut", batches, objective=objective(model), **settings)
    assert same(whole.state, resumed.state)
    assert len(whole.rows) == len(resumed.rows) > 0
    for row, other in zip(whole.rows, resumed.rows, strict=True):
        measured = {"seconds": 0, "processor_seconds": 0}
        assert {**row, **measured} == {**other, **measured}


@pytest.mark.slow
def test_channels_last_and_bf16_give_nearly_the_losses_of_a_yolo26() -> None:
    detector, batch = yolo("yolo26n"), small_batch()
    expected = detector(batch).task_losses
    other = yolo("yolo26n").to(memory_format=torch.channels_last)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = other(batch._replace(images=images)).task_losses
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, expected[name], rtol=0.1, atol=0.02, msg=name)
    torch.stack(list(found.values())).sum().backward()
    for name, parameter in other.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
