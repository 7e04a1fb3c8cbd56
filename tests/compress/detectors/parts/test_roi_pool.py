"""Both static forms pool what torchvision's MultiScaleRoIAlign pools."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor
from torchvision.ops import MultiScaleRoIAlign

from compress.detectors.parts.roi_pool import (
    POOLED,
    SAMPLING_RATIO,
    choose_levels,
    pool,
    stack_levels,
)

# large enough for boxes of every level, but for the coarsest of the first
SIZES = [((256, 320), (8, 16, 32)), ((448, 480), (4, 8, 16, 32)), ((480, 448), (16, 32))]


def levels(size: tuple[int, int], strides: tuple[int, ...], images: int = 2) -> list[Tensor]:
    height, width = size
    # far from zero, so that a sample lost or gained at a border shows
    return [10 + torch.randn(images, 3, height // s, width // s) for s in strides]


def expected(maps: list[Tensor], boxes: Tensor, size: tuple[int, int]) -> Tensor:
    pooler = MultiScaleRoIAlign([str(i) for i in range(len(maps))], POOLED, SAMPLING_RATIO)
    named = OrderedDict((str(index), level) for index, level in enumerate(maps))
    pooled: Tensor = pooler(named, list(boxes), [size] * len(boxes))
    return pooled


def drawn(size: tuple[int, int], count: int) -> Tensor:
    """Boxes of all shapes clipped to the picture: slivers, corners, points, the whole of it."""
    height, width = size
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    centre = (torch.rand(2, count, 2) * 1.2 - 0.1) * limits[:2]
    half = 2 ** (torch.rand(2, count, 2) * 15 - 6)  # 1/64 to 512 pixels, each side its own
    boxes = torch.cat((centre - half, centre + half), dim=2)
    boxes[:, ::5] = boxes[:, ::5].round()  # on cell borders
    boxes[:, ::7, 2:] = limits[2:]  # ending at the lower right corner
    boxes = torch.minimum(boxes.clamp(min=0), limits)
    boxes[:, ::11, 2:] = boxes[:, ::11, :2]  # without area
    boxes[:, 0], boxes[:, 1] = limits * torch.tensor([0, 0, 1, 1]), limits[[0, 1, 0, 1]]
    return boxes


@pytest.mark.parametrize(("size", "strides"), SIZES)
@pytest.mark.parametrize("form", ["masked", "atlas"])
def test_any_box_inside_the_picture_is_pooled_as_torchvision_does(form, size, strides) -> None:
    maps, boxes = levels(size, strides), drawn(size, 3000)
    found, wanted = pool(maps, boxes, strides, form), expected(maps, boxes, size)
    assert len(torch.unique(choose_levels(boxes, strides))) > 1
    assert (wanted == 0).any()  # some bins lie wholly outside
    if form == "masked":
        assert torch.equal(found, wanted)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-4)


# The box begins at 1.5 cells of 2 and is half a cell high, so it counts as a cell: its 14 samples,
# two per bin, lie at 1.5 + 1/28, + 3/28, ... Up to 2 there are seven: three bins and a half.
def test_samples_below_the_map_are_zero_and_not_another_level() -> None:
    maps = [torch.full((1, 1, 2, 2), 100.0), torch.full((1, 1, 1, 1), 7.0)]
    sliver = torch.tensor([[[0.0, 24.0, 32.0, 32.0]]])  # of the first level
    low = pool(maps, sliver, (16, 32), "atlas")[0, 0]
    assert low[:, 0].tolist() == pytest.approx([100, 100, 100, 50, 0, 0, 0])


@pytest.mark.slow
def test_no_sample_leaves_the_rows_of_its_level() -> None:
    size, strides = SIZES[1]
    boxes = drawn(size, 2000)
    own = choose_levels(boxes, strides)
    assert len(torch.unique(own)) == 4
    for level in range(4):
        maps = levels(size, strides)
        clean = pool(maps, boxes, strides, "atlas")
        for other in set(range(4)) - {level}:
            maps[other].fill_(torch.nan)
        found = pool(maps, boxes, strides, "atlas")
        chosen = (own == level).flatten()
        assert torch.equal(found[chosen], clean[chosen])


def test_the_atlas_repeats_the_last_row_and_column_of_each_level() -> None:
    maps = [torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[9.0]]]])]
    atlas, tops = stack_levels(maps)
    assert tops == [0, 3]
    assert atlas[0, 0].tolist() == [[1, 2, 2], [3, 4, 4], [3, 4, 4], [9, 9, 0], [9, 9, 0]]


class Pooling(torch.nn.Module):
    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor) -> Tensor:
        return pool([fine, coarse], boxes, (16, 32), "atlas")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_onnx_runtimes_roi_align_agrees_at_every_border(tmp_path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    size, strides = SIZES[2]
    maps, boxes = levels(size, strides), drawn(size, 3000)
    path = tmp_path / "pool.onnx"
    names = ["fine", "coarse", "boxes"]
    torch.onnx.export(
        Pooling(), (*maps, boxes), path, input_names=names, dynamo=True, opset_version=18
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = dict(zip(names, [m.numpy() for m in (*maps, boxes)], strict=True))
    found = torch.from_numpy(session.run(None, given)[0])
    torch.testing.assert_close(found, expected(maps, boxes, size), rtol=0, atol=2e-4)
