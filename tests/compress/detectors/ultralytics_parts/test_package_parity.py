"""Losses, boxes and scores equal those of the package's own model with the same weights."""

from copy import deepcopy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from compress.detector import Candidates
from compress.detectors.ultralytics_parts.installed import is_installed
from tests.compress.detectors.small import CLASSES, SIZE, small_batch
from tests.compress.detectors.ultralytics_parts.theirs import EPOCHS, as_theirs, equal_pair

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed"),
]
ONE_BRANCH = ("yolov8n", "yolo11n")
MODELS = (*ONE_BRANCH, "yolo26n", "rtdetr-l")


@cache
def with_states(model: str) -> tuple[tuple[Any, Any], ...]:
    return tuple((one, deepcopy(one.state_dict())) for one in equal_pair(model))


def pair_of(model: str) -> tuple[Any, Any]:
    """Their model and ours with equal weights and statistics, in training."""
    for one, state in with_states(model):
        one.load_state_dict(state)
        one.zero_grad()
    (their, _), (our, _) = with_states(model)
    return their.train(), our.train()


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("counts", [(2, 1, 0), (0, 3, 2), (0, 0, 0)])
@pytest.mark.parametrize("model", ONE_BRANCH)
def test_the_losses_of_a_yolo_are_those_of_the_package(model: str, counts: tuple[int, ...]) -> None:
    their, our = pair_of(model)
    batch = small_batch(counts)
    expected = their.loss(as_theirs(batch))[0] / len(counts)
    found = our(batch).task_losses
    assert list(found) == ["class", "box", "dfl"]
    same(torch.stack([found["box"], found["class"], found["dfl"]]), expected)


@pytest.mark.parametrize("epoch", [0, 1, EPOCHS - 1, EPOCHS + 3])
def test_both_branches_of_a_yolo26_weigh_as_in_the_package_at_every_time(epoch: int) -> None:
    their, our = pair_of("yolo26n")
    batch = small_batch((2, 1, 0))
    their.criterion = their.init_criterion()
    for _ in range(epoch):
        their.criterion.update()
    expected = their.loss(as_theirs(batch))[0] / 3
    our.at(epoch, EPOCHS)
    found = our(batch).task_losses
    terms = ("box", "class", "l1")
    assert set(found) == {*terms, *(f"one2one_{term}" for term in terms)}
    same(torch.stack([found[term] + found[f"one2one_{term}"] for term in terms]), expected)


def test_the_gradients_of_a_yolo26_are_those_of_the_package() -> None:
    """The one-to-one branch trains its own layers alone."""
    their, our = pair_of("yolo26n")
    batch = small_batch((2, 1, 0))
    their.criterion = None
    (their.loss(as_theirs(batch))[0].sum() / 3).backward()
    our.at(0, EPOCHS)
    torch.stack(list(our(batch).task_losses.values())).sum().backward()
    expected = our.renamed({n: p.grad for n, p in their.named_parameters() if p.grad is not None})
    found = {name: parameter.grad for name, parameter in our.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        # that of a bias before a BatchNorm is rounding alone
        assert (gradient - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-4, name


@pytest.mark.parametrize("counts", [(2, 1, 0), (0, 0, 0)])
def test_the_losses_of_an_rtdetr_are_those_of_the_package(counts: tuple[int, ...]) -> None:
    their, our = pair_of("rtdetr-l")
    batch = small_batch(counts)
    torch.manual_seed(3)  # the denoising queries
    total, items = their.loss(as_theirs(batch))
    torch.manual_seed(3)
    found = our(batch).task_losses
    assert len(found) == 12
    same(torch.stack(list(found.values())).sum(), total)
    same(found["giou"], items["giou_loss"])
    same(found["class"], items["cls_loss"])
    same(found["box"], items["l1_loss"])


@torch.no_grad()
def detections(model: str) -> tuple[Candidates, Candidates]:
    """What both give for three pictures: theirs, and as many of ours."""
    their, our = pair_of(model)
    images = small_batch((0, 0, 0)).images
    output, found = their.eval()(images)[0], our.eval().candidates(images)
    width_and_height = torch.tensor([SIZE[1], SIZE[0]])
    if model in ONE_BRANCH:  # centres and sizes, then the scores of all classes, of each cell
        boxes, scores = corners(output[:, :4].mT), output[:, 4:].mT
        best, order = scores.flatten(1).topk(found.scores.shape[1], dim=1)
        places = (order // CLASSES)[..., None].expand(-1, -1, 4)
        expected = Candidates(boxes.gather(1, places), best, order % CLASSES)
    else:  # boxes, scores and labels of the best
        boxes = output[..., :4]
        if model.startswith("rtdetr"):
            boxes = corners(boxes * width_and_height.repeat(2))
        expected = Candidates(boxes, output[..., 4], output[..., 5])
    clipped = expected.boxes.clamp(min=0).minimum(width_and_height.repeat(2))
    count = expected.scores.shape[1]
    return (
        expected._replace(boxes=clipped, labels=expected.labels.int()),
        Candidates(*(value[:, :count] for value in found)),
    )


def corners(boxes: Tensor) -> Tensor:
    centres, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat((centres - half, centres + half), dim=2)


@pytest.mark.parametrize("model", MODELS)
def test_boxes_and_scores_are_those_of_the_package_s_head(model: str) -> None:
    """Of the one-to-one branch, for a YOLO26; where no rounding can change the order."""
    expected, found = detections(model)
    assert expected.scores.shape[1] >= 126
    assert expected.scores.std() > 1e-3  # scores that differ, so that the order says something
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-6)
    near = expected.scores.diff(dim=1).abs() < 2e-6
    first = torch.zeros_like(near[:, :1])
    clear = ~(torch.cat((first, near), 1) | torch.cat((near, first), 1))
    assert clear.float().mean() > 0.6
    torch.testing.assert_close(found.boxes[clear], expected.boxes[clear], rtol=0, atol=1e-3)
    assert torch.equal(found.labels[clear], expected.labels[clear])


@pytest.mark.parametrize("model", MODELS)
def test_a_model_has_as_many_weights_as_the_package_s(model: str) -> None:
    their, our = pair_of(model)
    constant = 16 if model in ONE_BRANCH else 0  # the bins of a distribution, never trained
    count = sum(one.numel() for one in our.parameters())
    assert count == sum(one.numel() for one in their.parameters()) - constant
    assert all(one.requires_grad for one in our.parameters())
