"""Fixed views of the training pictures: what a store holds a teacher's outputs of.

A view is a picture after one draw of the augmentation. A training usually draws anew in every
epoch; with fixed views it returns to the same few, so that a teacher's outputs on them can be
computed once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from compress.data.config import Data
from compress.data.schedule import Key


@dataclass(frozen=True)
class SetViews:
    """The views of one set of pictures.

    Attributes:
        pictures: how many pictures the set has.
        early: views per picture, as drawn while mosaics are allowed.
        late: views per picture without mosaics, as drawn after `augment.close_mosaic`.
    """

    pictures: int
    early: int
    late: int = 0

    @property
    def each(self) -> int:
        """Views per picture."""
        return self.early + self.late

    def view(self, key: Key) -> int:
        """Return the number of the view of its picture that a step takes."""
        if key.mosaic or not self.late:
            return key.epoch % self.early
        return self.early + key.epoch % self.late

    def key(self, row: int, *, labeled: bool) -> Key:
        """Return a key whose view is the `row`-th of the set: picture by picture, then view."""
        picture, view = divmod(row, self.each)
        early = view < self.early
        return Key(labeled, view if early else view - self.early, picture, mosaic=early)


@dataclass(frozen=True)
class Views:
    """The views of the labelled and the unlabelled pictures, with their rows in a store.

    The views depend on `seed` alone, not on the seed of a training, so that the trainings of all
    seeds share them.

    Attributes:
        seed: seed of the draws.
        labeled: views of the labelled pictures.
        unlabeled: views of those without labels.
    """

    seed: int
    labeled: SetViews
    unlabeled: SetViews

    @property
    def rows(self) -> int:
        """Views of all pictures."""
        return self._labeled_rows + self.unlabeled.pictures * self.unlabeled.each

    @property
    def _labeled_rows(self) -> int:
        return self.labeled.pictures * self.labeled.each

    def draw(self, key: Key) -> list[int]:
        """Return the seed of the draw of a key's view."""
        return [self.seed, self._of(key).view(key), key.picture, 1 + key.labeled]

    def row(self, key: Key) -> int:
        """Return the row of a key's view."""
        own = self._of(key)
        first = 0 if key.labeled else self._labeled_rows
        return first + key.picture * own.each + own.view(key)

    def keys(self, rows: range) -> Iterator[Key]:
        """Yield a key of each row."""
        for row in rows:
            if row < self._labeled_rows:
                yield self.labeled.key(row, labeled=True)
            else:
                yield self.unlabeled.key(row - self._labeled_rows, labeled=False)

    def _of(self, key: Key) -> SetViews:
        return self.labeled if key.labeled else self.unlabeled


def views_of(
    data: Data,
    *,
    batch: int,
    unlabeled_batch: int,
    steps: int,
    mosaic_until: int,
    most: int,
    most_unlabeled: int,
    seed: int,
) -> Views:
    """Return at most `most` views of each picture, and no more than a training passes.

    Args:
        data: the pictures.
        batch: labelled pictures per step.
        unlabeled_batch: pictures without labels per step; 0 for none.
        steps: batches of the training.
        mosaic_until: first of them without mosaics.
        most: views of a labelled picture, of those with mosaics and of those without.
        most_unlabeled: views of a picture without labels.
        seed: seed of the draws.
    """
    closes = bool(data.augment.mosaic and data.augment.close_mosaic)
    until = mosaic_until if closes else steps

    def of(pictures: int, batch: int, most: int) -> SetViews:
        if not batch:
            return SetViews(0, 1)
        per_epoch = pictures // batch
        early = _epochs(0, until, per_epoch)
        late = _epochs(until, steps, per_epoch)
        if not early:  # no step has mosaics
            return SetViews(pictures, 1, min(most, late))
        return SetViews(pictures, min(most, early), min(most, late))

    unlabeled = of(len(data.unlabeled or ()), unlabeled_batch, most_unlabeled)
    return Views(seed, of(len(data.train), batch, most), unlabeled)


def _epochs(first: int, end: int, length: int) -> int:
    """Return how many epochs of `length` steps have one of the steps `first` to `end` - 1."""
    return 0 if first >= end else (end - 1) // length - first // length + 1
