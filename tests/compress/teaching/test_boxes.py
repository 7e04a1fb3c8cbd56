from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compress.batch import ScoredBoxes
from compress.parts.weights import save_weights
from compress.teaching.boxes import TaughtBoxes
from export.errors import DataError

FIRST = ScoredBoxes(
    torch.tensor([[1.0, 2.0, 11.0, 12.0], [3.5, 4.0, 9.0, 8.0]]),
    torch.tensor([1, 0]),
    torch.tensor([0.25, 0.75]),
)
NOTHING = ScoredBoxes(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0))
LAST = ScoredBoxes(torch.tensor([[0.0, 0.0, 5.0, 5.0]]), torch.tensor([1]), torch.tensor([1.0]))
TAUGHT = TaughtBoxes.of_pictures([FIRST, NOTHING, LAST], ("car", "bus"), "results.json")


def test_a_pictures_boxes_are_its_own_and_the_highest_score_comes_first() -> None:
    assert len(TAUGHT) == 3
    boxes, labels, scores = TAUGHT.of(0)
    assert boxes.tolist() == [[3.5, 4.0, 9.0, 8.0], [1.0, 2.0, 11.0, 12.0]]
    assert labels.tolist() == [0, 1]
    assert scores.tolist() == [0.75, 0.25]
    assert len(TAUGHT.of(1).boxes) == 0
    assert TAUGHT.of(2).boxes.tolist() == [[0.0, 0.0, 5.0, 5.0]]


def test_no_pictures_are_no_boxes() -> None:
    assert len(TaughtBoxes.of_pictures([], ("car",), "nothing")) == 0


def test_what_is_written_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    TAUGHT.write(tmp_path / "taught.safetensors")
    back = TaughtBoxes.read(tmp_path / "taught.safetensors")
    assert (back.classes, back.source) == (("car", "bus"), "results.json")
    for name in ("boxes", "labels", "scores", "starts"):
        assert torch.equal(getattr(back, name), getattr(TAUGHT, name))
    back.write(tmp_path / "again.safetensors")
    first, second = (tmp_path / f"{n}.safetensors" for n in ("taught", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_a_missing_truncated_or_other_file_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "taught.safetensors"
    with pytest.raises(DataError, match=r"taught\.safetensors: there is no such file"):
        TaughtBoxes.read(path)
    TAUGHT.write(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=r"taught\.safetensors: cannot be read"):
        TaughtBoxes.read(path)
    save_weights({"conv.weight": torch.zeros(3)}, path)
    with pytest.raises(DataError, match="holds no boxes of a teacher"):
        TaughtBoxes.read(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 2, 1])}, r"labels outside 0\.\.1"),
        ({"scores": torch.tensor([0.5, float("nan"), 1.0])}, r"scores outside 0\.\.1"),
        ({"starts": torch.tensor([0, 2, 1, 3])}, "starts do not divide"),
        ({"boxes": torch.zeros(2, 4)}, "shapes of boxes, labels, scores and starts"),
        ({"labels": torch.zeros(3)}, "types of boxes, labels, scores and starts"),
    ],
)
def test_values_that_break_the_promise_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor], message: str
) -> None:
    replace(TAUGHT, **change).write(tmp_path / "taught.safetensors")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        TaughtBoxes.read(tmp_path / "taught.safetensors")
