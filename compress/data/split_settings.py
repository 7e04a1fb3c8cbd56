"""Settings of the splits of a data set: which pictures make one, and how one is divided."""

from typing import Annotated

from pydantic import Field, model_validator
from typing_extensions import Self

from export.config import ClashError, Section, Seed, WrittenPath


class SplitConfig(Section):
    """Which pictures make one split.

    Attributes:
        split: name of the split in the data set; by default the role's: train, val, unlabeled.
        path: annotation file, data.yaml, list or folder, if not at the usual place; from `root`.
        images: folder of the pictures, for COCO JSON where it is not the usual one.
        limit: number of pictures to use, the first of a permutation drawn with `seed`.
        seed: seed of that permutation.
        count: number of pictures to draw; `shapes` only.
        rest: `unlabeled` only: leave out the pictures that `train` has labels of, before `limit`.
    """

    split: str | None = None
    path: WrittenPath | None = None
    images: WrittenPath | None = None
    limit: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    seed: Seed = 0
    count: Annotated[int, Field(ge=1, le=10_000)] | None = None
    rest: bool = False


class DivisionConfig(Section):
    """How to divide a data set that has no splits.

    Copies of a picture stay on one side, each class gets its share on every side, and neither
    file names nor their order matter.

    Attributes:
        val: share of the pictures held out for val.
        test: share held out from both training and val, for a final evaluation after the run.
        seed: another seed gives another division.
    """

    val: Annotated[float, Field(gt=0, lt=1)] = 0.2
    test: Annotated[float, Field(ge=0, lt=1)] = 0.0
    seed: Seed = 0

    @model_validator(mode="after")
    def _check_shares(self) -> Self:
        if self.val + self.test >= 1:
            raise ClashError(
                f"val {self.val} and test {self.test} leave nothing for train", "val", "test"
            )
        return self
