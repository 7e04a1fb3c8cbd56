"""RKD: imitate the distances between pictures (Park et al., CVPR 2019).

The distance-wise loss is defined for one embedding per picture, as in a classifier. For detectors
we use the mean of each pyramid level's map over its cells; this choice is ours. Channels and map
sizes may differ, since only distances are compared. A batch needs at least three pictures: with
two, the only distance is divided by itself, so the term is always 0.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from compress.batch import Batch
from compress.detector import DetectorSpec, Outputs
from compress.losses.parts.alignment import MapLoss, MapSection
from compress.losses.parts.distances import relative_distances
from compress.parts.processes import gather_rows
from export.config import PositiveFloat


class RkdConfig(MapSection):
    """The levels in use, and whether embeddings are normalised."""

    type: Literal["rkd"]
    weight: PositiveFloat | Literal["auto"] = 25.0
    normalize: bool = True  # scale each vector to length 1 first

    def build(self, student: DetectorSpec, teacher: DetectorSpec) -> "Rkd":
        """Return the loss for this pair."""
        return Rkd(self, student, teacher)


class Rkd(MapLoss[RkdConfig]):
    """The distance term; it has no parameters."""

    def terms(self, student: Outputs, teacher: Outputs, batch: Batch) -> dict[str, Tensor]:  # noqa: ARG002 - maps alone
        """Return `distance`, summed over levels."""
        errors = []
        for i, j in zip(self.levels.student, self.levels.teacher, strict=True):
            own, other = (m.mean(dim=(2, 3)) for m in (student.features[i], teacher.features[j]))
            if self.config.normalize:
                own, other = functional.normalize(own, dim=1), functional.normalize(other, dim=1)
            errors.append(distance_error(gather_rows(own).rows, gather_rows(other).rows))
        return {"distance": torch.stack(errors).sum()}


def distance_error(student: Tensor, teacher: Tensor) -> Tensor:
    """Compare the relative distances between the rows of (B, Cs) with those of (B, Ct).

    Huber loss of width 1, averaged over all B * B entries, the zero diagonal included.
    """
    return functional.smooth_l1_loss(relative_distances(student), relative_distances(teacher))
