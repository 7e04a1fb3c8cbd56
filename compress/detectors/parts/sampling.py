"""The balanced sampling of anchors and proposals (Girshick 2015), drawn picture by picture."""

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import Self

from compress.parts.draws import picture_generators


class PictureSampler:
    """What torchvision's `BalancedPositiveNegativeSampler` does, with draws of each picture's own.

    Attributes:
        limit: most of each picture.
        positive_share: most positives, as a share of `limit`.
        purpose: tells the draws of two samplers apart.
        sampled: how many were sampled at the last call, of all pictures.
    """

    def __init__(self, limit: int, positive_share: float, purpose: str) -> None:
        self.limit, self.positive_share, self.purpose = limit, positive_share, purpose
        self.sampled = 0
        self._image_ids: tuple[int, ...] = ()

    def of(self, image_ids: Sequence[int]) -> Self:
        """State the pictures of the next call."""
        self._image_ids = tuple(image_ids)
        return self

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return a uint8 mask (n,) of the sampled positives and of the negatives per picture.

        Args:
            matched: (n,) per picture: 1 and more for positives, 0 for negatives, below 0 for none.
        """
        chosen: tuple[list[Tensor], list[Tensor]] = [], []
        generators = picture_generators(self._image_ids, self.purpose, matched[0].device)
        self.sampled = 0
        for labels, generator in zip(matched, generators, strict=True):
            positive, negative = ((labels >= 1).nonzero()[:, 0], (labels == 0).nonzero()[:, 0])
            wanted = min(len(positive), int(self.limit * self.positive_share))
            for side, places, count in zip(
                chosen, (positive, negative), (wanted, self.limit - wanted), strict=True
            ):
                order = torch.randperm(len(places), generator=generator, device=places.device)
                mask = torch.zeros_like(labels, dtype=torch.uint8)
                mask[places[order[:count]]] = 1
                side.append(mask)
                self.sampled += min(len(places), count)
        return chosen
