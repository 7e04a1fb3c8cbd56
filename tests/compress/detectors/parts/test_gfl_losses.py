import math

import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from compress.batch import Targets
from compress.detectors.parts.gfl_losses import (
    distances_to_boxes,
    distribution_focal,
    expected_distances,
    gfl_losses,
)
from tests.processes import start_each

BINS = 5


def peaked(*bins):
    """Box logits whose distributions are all at one bin per edge."""
    logits = torch.full((4, BINS), -50.0)
    for edge, bin_ in enumerate(bins):
        logits[edge, bin_] = 50.0
    return logits.flatten()


def test_the_expectation_of_two_equal_bins_lies_between_them():
    logits = torch.full((4, BINS), -50.0)
    logits[:, 1:3] = 0.0
    torch.testing.assert_close(expected_distances(logits.flatten()), torch.full((4,), 1.5))


def test_distances_are_in_strides_from_the_centre():
    box = distances_to_boxes(
        torch.tensor([1.0, 0.5, 2.0, 3.0]), torch.tensor([12.0, 20.0]), torch.tensor([8.0])
    )
    assert box.tolist() == [4.0, 16.0, 28.0, 44.0]


def test_distribution_focal_loss_by_hand():
    # uniform over 5 bins: every log p is -log 5, and the two weights add up to 1
    loss = distribution_focal(torch.zeros(1, 4 * BINS), torch.tensor([[0.0, 1.25, 2.5, 9.0]]))
    assert loss.item() == pytest.approx(math.log(5))
    # all mass on bin 1; distance 1.25 weighs it by .75 and bin 2, whose log p is -100, by .25
    loss = distribution_focal(peaked(1, 1, 1, 1)[None], torch.full((1, 4), 1.25))
    assert loss.item() == pytest.approx(25.0)


def two_locations(
    score_logit: float,
) -> tuple[Tensor, Tensor, Tensor, list[Targets], Tensor, Tensor]:
    """One location that predicts its box exactly, one of background; both of stride 8."""
    centres, strides = torch.tensor([[12.0, 12.0], [28.0, 12.0]]), torch.full((2, 1), 8.0)
    target = Targets(torch.tensor([[4.0, 4.0, 28.0, 20.0]]), torch.tensor([1]))
    class_logits = torch.tensor([[[0.0, score_logit], [0.0, 0.0]]], requires_grad=True)
    box_logits = torch.stack((peaked(1, 1, 2, 1), peaked(0, 0, 0, 0)))[None].requires_grad_()
    matched = torch.tensor([[0, -1]])
    return class_logits, box_logits, matched, [target], centres, strides


def test_quality_focal_loss_by_hand():
    losses = gfl_losses(*two_locations(0.0))
    # the box is exact, so the positive's target is 1: |1 - .5|^2 log 2; each of the three
    # backgrounds has the target 0: |0 - .5|^2 log 2; one positive divides the sum
    assert losses["quality"].item() == pytest.approx(4 * 0.25 * math.log(2), rel=1e-5)
    assert losses["giou"].item() == pytest.approx(0, abs=1e-5)
    assert losses["dfl"].item() == pytest.approx(0, abs=1e-5)


def test_box_losses_do_not_depend_on_the_score_of_a_single_positive():
    moved = []
    for logit in (-3.0, 3.0):
        class_logits, _, matched, targets, centres, strides = two_locations(logit)
        box_logits = torch.stack((peaked(1, 1, 1, 1), peaked(0, 0, 0, 0)))[None]
        moved.append(gfl_losses(class_logits, box_logits, matched, targets, centres, strides))
    # the predicted box (4, 4, 20, 20) covers 2/3 of its target and no more: GIoU = 2/3
    for losses in moved:
        assert losses["giou"].item() == pytest.approx(2 * (1 - 2 / 3), rel=1e-4)


def test_no_gradient_flows_through_the_weights_or_the_target():
    arguments = two_locations(0.5)
    losses = gfl_losses(*arguments)
    (losses["giou"] + losses["dfl"]).backward(retain_graph=True)
    assert arguments[0].grad is None or arguments[0].grad.abs().sum() == 0
    arguments[1].grad = None
    losses["quality"].backward()
    assert arguments[1].grad is None or arguments[1].grad.abs().sum() == 0


def random_problem():
    generator = torch.Generator().manual_seed(2)
    class_logits = torch.randn(4, 6, 3, generator=generator)
    box_logits = torch.randn(4, 6, 4 * BINS, generator=generator)
    matched = torch.full((4, 6), -1)
    # picture 0 has three positives, 1 and 3 have one, 2 has none
    matched[0, :3], matched[1, 4], matched[3, 0] = 0, 1, 2
    boxes = [torch.tensor([[4.0, 4, 20, 24]]), torch.tensor([[8.0, 2, 30, 20]])]
    boxes += [torch.zeros(0, 4), torch.tensor([[1.0, 1, 22, 22]])]
    targets = [Targets(b, torch.full((len(b),), 2)) for b in boxes]
    centres = torch.rand(6, 2, generator=generator) * 16 + 8
    return class_logits, box_logits, matched, targets, centres, torch.full((6, 1), 8.0)


def gradients(pictures):
    class_logits, box_logits, matched, targets, centres, strides = random_problem()
    first = sum(len(t.boxes) for t in targets[: pictures.start])
    part = (class_logits[pictures].requires_grad_(), box_logits[pictures].requires_grad_())
    index = torch.where(matched[pictures] >= 0, matched[pictures] - first, -1)
    losses = gfl_losses(*part, index, targets[pictures], centres, strides)
    torch.stack(list(losses.values())).sum().backward()
    return [tensor.grad for tensor in part]


def one_of_two(rank, store, results):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    torch.save(gradients(slice(2 * rank, 2 * rank + 2)), f"{results}.{rank}")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_half_the_batch_have_the_gradient_of_one(tmp_path):
    whole = gradients(slice(0, 4))
    store, results = tmp_path / "store", tmp_path / "gradients"
    start_each(one_of_two, store, results)
    halves = [torch.load(f"{results}.{rank}") for rank in range(2)]
    for together, parts in zip(whole, zip(*halves, strict=True), strict=True):
        # data-parallel training averages over the processes
        torch.testing.assert_close(together, torch.cat(parts) / 2, rtol=1e-4, atol=1e-7)
