"""What a teacher found on the pictures of a set, on its way into training batches."""

from typing import NamedTuple, Protocol

from compress.batch import ScoredBoxes
from export.errors import DataError, counted


class TaughtPictures(Protocol):
    """The boxes that a teacher found on each picture of a set."""

    def __len__(self) -> int:
        """Return the number of pictures."""

    def of(self, index: int) -> ScoredBoxes:
        """Return the boxes of a picture, in pixels of the upright original."""


class Taught(NamedTuple):
    """What a teacher found on the sets that training sees.

    Attributes:
        train: boxes on the labelled pictures.
        unlabeled: boxes on those without labels; None if there are none.
    """

    train: TaughtPictures
    unlabeled: TaughtPictures | None = None


def check_taught(taught: TaughtPictures | None, pictures: int, name: str) -> None:
    """Refuse boxes that are not those of a set.

    Args:
        taught: what a teacher found.
        pictures: how many the set has.
        name: name of the set, for the message.

    Raises:
        DataError: there are none, or those of another number of pictures.
    """
    found = 0 if taught is None else len(taught)
    if found != pictures:
        raise DataError(
            f"the teacher's boxes are those of {counted(found, 'picture')}, but {name} has "
            f"{pictures}; run the teacher over this set"
        )
