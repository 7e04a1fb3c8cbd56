"""NMS as one operator with a static shape, so that graphs around it stay static too."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.ops import nms

from export.optional import require

# Operators to the functions that write them as ONNX, as `torch.onnx.export` takes them.
Translations = dict[Callable[..., object], Callable[..., object]]


@torch.library.custom_op("slimdet::nms_keep", mutates_args=())
def nms_keep(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """Mark the boxes that greedy NMS keeps.

    Args:
        boxes: (B, N, 4) xyxy.
        scores: (B, N).
        iou: a box is dropped when it overlaps a better one by more.

    Returns:
        (B, N) bool.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for image, (image_boxes, image_scores) in enumerate(zip(boxes, scores, strict=True)):
        keep[image, nms(image_boxes, image_scores, iou)] = True
    return keep


@nms_keep.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:  # noqa: ARG001
    return torch.empty_like(scores, dtype=torch.bool)


def onnx_translations() -> Translations:
    """Return how `torch.onnx.export` writes the operator: NonMaxSuppression and ScatterND.

    The number of kept boxes depends on the data; it stays inside the translation.
    """
    op = require("onnxscript", extra="train", purpose="ONNX export").opset18

    def translate(boxes: object, scores: object, iou: float) -> object:
        shape = op.Shape(scores)
        # a missing score threshold means none, while the default of the output count is 0
        every = op.Slice(shape, [1], [2], [0])
        kept = op.NonMaxSuppression(
            boxes, op.Unsqueeze(scores, [1]), every, op.Constant(value_floats=[iou])
        )  # (n, 3): picture, class, box
        places = op.Gather(kept, [0, 2], axis=1)
        ones = op.Expand(op.Constant(value_ints=[1]), op.Slice(op.Shape(kept), [0], [1], [0]))
        zeros = op.Expand(op.Constant(value_ints=[0]), shape)
        return op.Cast(op.ScatterND(zeros, places, ones), to=9)

    return {torch.ops.slimdet.nms_keep.default: translate}
