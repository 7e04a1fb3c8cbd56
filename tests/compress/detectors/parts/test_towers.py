"""What a detector offers of its head's towers can be taken up at any layer."""

import pytest
import torch

from tests.compress.detectors.small import small_batch, small_detector, spread

DEPTH = 3
WITH_TOWERS = ("retinanet", "fcos", "gfl")


def run(family, norm):
    """A detector in eval mode, whose BatchNorms have seen a batch."""
    detector = spread(small_detector(family, head_depth=DEPTH, norm=norm))
    detector(small_batch())
    detector.eval()
    return detector, detector(small_batch((1, 2)), frozenset({"dense", "towers"}))


@pytest.mark.parametrize("family", WITH_TOWERS)
@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_a_head_resumed_at_any_layer_gives_the_same_predictions(family, norm):
    detector, outputs = run(family, norm)
    towers, dense = outputs.towers, outputs.dense
    assert len(towers.class_maps) == len(towers.box_maps) == detector.spec.tower_depth + 1
    for index in range(DEPTH + 1):
        in_class, in_box = list(towers.class_maps[index]), list(towers.box_maps[index])
        if index:
            assert all(level.shape[1] == detector.spec.tower_channels for level in in_class)
            in_class, in_box = ([towers.activation(m) for m in maps] for maps in (in_class, in_box))
        again = towers.resume(index, in_class, in_box)
        torch.testing.assert_close(again.class_logits, dense.class_logits)
        torch.testing.assert_close(again.boxes, dense.boxes)
        if dense.dfl_logits is not None:
            torch.testing.assert_close(again.dfl_logits, dense.dfl_logits)


@pytest.mark.parametrize("family", WITH_TOWERS)
def test_resuming_a_frozen_head_passes_the_gradient_to_the_maps_alone(family):
    detector, outputs = run(family, "batch")
    detector.requires_grad_(False)
    maps = [
        [level.detach().requires_grad_() for level in layer[1]]
        for layer in (outputs.towers.class_maps, outputs.towers.box_maps)
    ]
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    again = outputs.towers.resume(1, *maps)
    (again.class_logits.sum() + again.boxes.sum()).backward()
    assert all(level.grad.abs().sum() > 0 for level in [*maps[0], *maps[1]])
    assert all(parameter.grad is None for parameter in detector.parameters())
    assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
