"""Boxes with scores that a teacher found on the pictures of a set, and their file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from compress.batch import ScoredBoxes
from compress.parts.weights import read_metadata, read_tensors, save_weights
from export.errors import DataError, ToolkitError

_NAMES = ("boxes", "labels", "scores", "starts")  # of the tensors in the file


@dataclass(frozen=True)
class BoxLimits:
    """Which boxes of a picture a teacher gives: the best ones with scores that are high enough.

    Attributes:
        score_threshold: boxes of a lower score are left out.
        max_boxes: the most boxes of a picture.
    """

    score_threshold: float = 0.01
    max_boxes: int = 100


@dataclass(frozen=True)
class TaughtBoxes:
    """What a teacher found on each picture of a set: (N) boxes of P pictures, laid end to end.

    Attributes:
        boxes: (N, 4) float32 xyxy, pixels of the upright original picture.
        labels: (N,) int64, indices of `classes`.
        scores: (N,) float32 in 0..1; of one picture, highest first.
        starts: (P + 1,) int64; the boxes of picture i are those from starts[i] to starts[i + 1].
        classes: the student's K class names.
        source: where the boxes come from, for messages.
    """

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    starts: Tensor
    classes: tuple[str, ...]
    source: str

    @classmethod
    def of_pictures(
        cls, found: Sequence[ScoredBoxes], classes: Sequence[str], source: str
    ) -> "TaughtBoxes":
        """Lay the boxes of all pictures end to end, each picture's highest score first."""
        ordered = []
        for one in found:
            order = torch.argsort(one.scores, descending=True, stable=True)
            ordered.append(ScoredBoxes(*(values[order] for values in one)))
        nothing = ScoredBoxes(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0))
        boxes, labels, scores = (
            torch.cat(column) for column in zip(nothing, *ordered, strict=True)
        )
        counts = torch.tensor([0, *(len(one.scores) for one in found)])
        return cls(
            boxes.float(), labels.long(), scores.float(), counts.cumsum(0), tuple(classes), source
        )

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.starts) - 1

    def of(self, index: int) -> ScoredBoxes:
        """Return the boxes of the picture at `index`, in pixels of the upright original."""
        start, end = int(self.starts[index]), int(self.starts[index + 1])
        return ScoredBoxes(self.boxes[start:end], self.labels[start:end], self.scores[start:end])

    def write(self, path: Path) -> None:
        """Write all of it to a .safetensors file, whole or not at all.

        Raises:
            ToolkitError: the file cannot be written.
        """
        said = json.dumps({"taught": {"classes": self.classes, "source": self.source}})
        save_weights({name: getattr(self, name) for name in _NAMES}, path, said)

    @classmethod
    def read(cls, path: Path) -> "TaughtBoxes":
        """Read what `write` wrote.

        Raises:
            DataError: the file is missing, damaged, or holds something else.
        """
        what = "boxes of a teacher"
        try:
            found = read_tensors(path, what)
            said = json.loads(read_metadata(path) or "{}")["taught"]
            boxes, labels, scores, starts = (found[name] for name in _NAMES)
            classes, source = tuple(said["classes"]), str(said["source"])
            taught = cls(boxes, labels, scores, starts, classes, source)
        except ToolkitError as error:
            raise DataError(str(error)) from None
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path}: holds no {what} ({type(error).__name__}: {error}); remove the file and "
                "run the teacher again"
            ) from None
        problem = taught._problem()
        if problem is not None:
            raise DataError(f"{path}: {problem}; remove the file and run the teacher again")
        return taught

    def _problem(self) -> str | None:
        """Return how the content contradicts the attributes' description, or None."""
        count = len(self.scores)
        shapes = (self.boxes.shape, self.labels.shape, self.scores.shape, self.starts.ndim)
        if shapes != ((count, 4), (count,), (count,), 1):
            return f"the shapes of boxes, labels, scores and starts do not fit: {shapes}"
        kinds = (self.boxes.dtype, self.labels.dtype, self.scores.dtype, self.starts.dtype)
        if kinds != (torch.float32, torch.int64, torch.float32, torch.int64):
            return f"the types of boxes, labels, scores and starts do not fit: {kinds}"
        starts = self.starts
        if len(starts) == 0 or starts[0] != 0 or starts[-1] != count or (starts.diff() < 0).any():
            return "starts do not divide the boxes among the pictures"
        if count and not (self.labels.min() >= 0 and self.labels.max() < len(self.classes)):
            return f"labels outside 0..{len(self.classes) - 1}"
        if not self.boxes.isfinite().all() or not ((self.scores >= 0) & (self.scores <= 1)).all():
            return "boxes that are not finite or scores outside 0..1"
        return None
