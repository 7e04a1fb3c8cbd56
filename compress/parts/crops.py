"""Cut boxes out of pictures and bring them to one size; differentiable in pictures and boxes."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def crop_boxes(images: Tensor, boxes: Sequence[Tensor], size: int) -> Tensor:
    """Return (n, 3, size, size), the contents of all boxes, picture by picture.

    Bilinear samples at the centres of a box's size x size cells. Boxes are clamped to the picture,
    and where that happens they have no gradient.

    Args:
        images: (B, 3, H, W).
        boxes: one (n_b, 4) xyxy tensor per picture, input pixels; may be fewer than B.
        size: side of the crops in pixels.
    """
    height, width = images.shape[-2:]
    steps = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size
    crops = [images.new_zeros(0, images.shape[1], size, size)]
    for image, own in zip(images, boxes, strict=False):
        if len(own):
            x1, x2 = own[:, 0::2].clamp(0, width).unsqueeze(-1).unbind(1)  # (n_b, 1)
            y1, y2 = own[:, 1::2].clamp(0, height).unsqueeze(-1).unbind(1)
            x = (x1 + (x2 - x1) * steps) * (2 / width) - 1  # (n_b, size)
            y = (y1 + (y2 - y1) * steps) * (2 / height) - 1
            grid = torch.stack(
                (x[:, None].expand(-1, size, -1), y[:, :, None].expand(-1, -1, size)), dim=-1
            )
            # all boxes of a picture in one tall grid: the picture itself is not copied
            found = functional.grid_sample(
                image[None],
                grid.reshape(1, -1, size, 2),
                padding_mode="border",
                align_corners=False,
            )
            crops.append(found.view(-1, len(own), size, size).transpose(0, 1))
    return torch.cat(crops)
