"""Which pictures each step of a training takes: a function of seed and step alone."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Key(NamedTuple):
    """One picture of one step."""

    labeled: bool
    epoch: int
    picture: int  # index in its set
    mosaic: bool = True  # whether it may be one


@dataclass
class Schedule:
    """Which pictures each step takes: seeded permutations, incomplete last batches left out.

    Attributes:
        count: labelled pictures.
        batch: labelled pictures per step, over all ranks.
        unlabeled_count: pictures without labels.
        unlabeled_batch: unlabelled pictures per step, over all ranks.
        seed: seed of the permutations.
        rank: rank of this process; it takes the rank-th contiguous slice of each step.
        world: number of processes that share a step.
        mosaic_until: first step without mosaics; None for none.
    """

    count: int
    batch: int
    unlabeled_count: int
    unlabeled_batch: int
    seed: int
    rank: int = 0
    world: int = 1
    mosaic_until: int | None = None
    _orders: dict[bool, tuple[int, NDArray[np.int64]]] = field(default_factory=dict)

    def keys(self, step: int) -> list[Key]:
        """Return this rank's pictures of one step, the labelled ones first."""
        keys = self._slice(True, self.count, self.batch, step)
        if self.unlabeled_batch:
            keys += self._slice(False, self.unlabeled_count, self.unlabeled_batch, step)
        return keys

    def _slice(self, labeled: bool, count: int, batch: int, step: int) -> list[Key]:
        epoch, place = divmod(step, count // batch)
        if self._orders.get(labeled, (-1,))[0] != epoch:
            rng = np.random.default_rng([self.seed, epoch, 1 + labeled])
            self._orders[labeled] = (epoch, rng.permutation(count))
        order = self._orders[labeled][1]
        own = own_share(batch, self.rank, self.world)
        chosen = [int(order[place * batch + index]) for index in own]
        mosaic = self.mosaic_until is None or step < self.mosaic_until
        return [Key(labeled, epoch, picture, mosaic) for picture in chosen]


def own_share(count: int, rank: int, world: int) -> range:
    """Return the contiguous share of one of `world` processes; sizes differ by one at most."""
    return range(rank * count // world, (rank + 1) * count // world)
