"""The precision of a training, chosen by features and not by how busy the machine is."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compress.run import main
from compress.training.precision import (
    has_bf16,
    planned_precision,
    resolve_precision,
    timed_pictures,
)
from export.errors import ToolkitError
from tests.compress.smoke import write_smoke

CPU = torch.device("cpu")
LACKS = "processor\t: 0\nflags\t\t: fpu avx2 avx512f\nbugs\t\t: bf16\n"
X86 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n"


class Probe(nn.Module):
    """A backbone that does much more in the precision that is to look slow."""

    def __init__(self, slow: torch.dtype) -> None:
        super().__init__()
        self.slow = slow
        self.convolution = nn.Conv2d(3, 8, 3)

    def forward(self, images: Tensor) -> list[Tensor]:
        found = self.convolution(images)
        if found.dtype == self.slow:
            found = found + sum(self.convolution(images) for _ in range(20)) / 1e6
        return [found]


def never() -> nn.Module:
    raise AssertionError("nothing is to be timed")


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "native"), [(LACKS, False), (X86, True), (ARM, True), ("", False)]
)
def test_the_processors_flags_tell_whether_it_computes_in_bf16(
    tmp_path: Path, text: str, native: bool
) -> None:
    assert has_bf16(written(tmp_path / "cpuinfo", text)) == native
    assert not has_bf16(tmp_path / "none")


def test_without_bf16_arithmetic_nothing_is_timed(tmp_path: Path) -> None:
    info, record = written(tmp_path / "cpuinfo", LACKS), tmp_path / "precision.json"
    chosen = resolve_precision("auto", CPU, never, record, (32, 32), info)
    assert chosen == ("32-true", "fp32: this processor has no bf16 arithmetic")
    assert json.loads(record.read_text()) == {"precision": chosen[0], "why": chosen[1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("slow", "expected"), [(torch.float32, "bf16-mixed"), (torch.bfloat16, "32-true")]
)
def test_native_bf16_is_taken_unless_it_costs_clearly_more(
    tmp_path: Path, slow: torch.dtype, expected: str
) -> None:
    info, record = written(tmp_path / "cpuinfo", X86), tmp_path / "precision.json"
    assert planned_precision("auto", CPU, record, info) is None
    chosen, why = resolve_precision("auto", CPU, lambda: Probe(slow), record, (64, 64), info)
    assert chosen == expected
    assert "of fp32's processor time" in why
    # a resumed run keeps it, whatever the processor is now
    for text in (X86, LACKS):
        info.write_text(text)
        assert resolve_precision("auto", CPU, never, record, (64, 64), info) == (chosen, why)


@pytest.mark.slow
def test_the_pictures_of_a_step_are_timed(tmp_path: Path) -> None:
    info, seen = written(tmp_path / "cpuinfo", X86), set()
    probe = Probe(torch.float32)
    probe.register_forward_pre_hook(lambda _, given: seen.add(given[0].shape))
    resolve_precision("auto", CPU, lambda: probe, tmp_path / "p.json", (64, 96), info, batch=8)
    assert seen == {(8, 3, 64, 96)}


@pytest.mark.parametrize(
    ("batch", "size", "timed"),
    [(8, (128, 128), 8), (64, (128, 128), 12), (1, (64, 64), 2), (16, (640, 640), 2)],
)
def test_large_pictures_are_timed_by_twos(batch: int, size: tuple[int, int], timed: int) -> None:
    assert timed_pictures(batch, size) == timed


@pytest.mark.parametrize(("amp", "chosen"), [("off", "32-true"), ("bf16", "bf16-mixed")])
def test_what_the_recipe_says_is_done(tmp_path: Path, amp: str, chosen: str) -> None:
    record = tmp_path / "precision.json"
    assert resolve_precision(amp, CPU, never, record, (32, 32))[0] == chosen
    assert not record.exists()


def test_a_check_says_the_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(write_smoke(tmp_path))
    for overrides, said in (
        ([], ["precision of training: fp32, set in the recipe"]),
        (
            ["train.amp=bf16"],
            [
                "precision of training, students: bf16, set in the recipe",
                "precision of training, teacher: fp32, set in the recipe",
            ],
        ),
    ):
        assert main([recipe, "--check", "--device", "cpu", "--json", *overrides]) == 0
        notes = json.loads(capsys.readouterr().out)["check"]["notes"]
        assert [note for note in notes if "precision" in note] == said


@pytest.mark.parametrize("content", ["", "[]", '{"precision": "64-true", "why": "so"}', "null"])
def test_a_damaged_record_is_told(tmp_path: Path, content: str) -> None:
    record = tmp_path / "precision.json"
    record.write_text(content)
    with pytest.raises(ToolkitError, match="delete it to choose again"):
        planned_precision("auto", torch.device("cpu"), record)
