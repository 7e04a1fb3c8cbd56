"""The tutorial, command after command, on drawn pictures and with a few training steps."""

import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slimdet.__main__ import main as slimdet
from tests.documents.blocks import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
# What makes the tutorial's trainings small: `check` has everything else as it is written.
TINY = [
    "data.image_size=64",
    "train={steps: 2, batch: 2}",
    "benchmark={repeats: 1, blocks: 2, calls_per_block: 2, images: 2, throughput_s: 0.01}",
    "export.parity_images=2",
    "export.calibration.count=4",
]
TINY_TEACHER = ["teacher.train={steps: 2, batch: 2}"]
# What makes its models small too, in `run`.
SLIM = "{{type: gfl, backbone: {{type: slim_resnet}}, width: {}, head_depth: 1}}"
SLIM_STUDENT, SLIM_TEACHER = f"student={SLIM.format(16)}", f"teacher.detector={SLIM.format(32)}"


def write_pictures(folder: Path, count: int = 10) -> None:
    """Pascal VOC without splits: a bright square or a dark one on noise, with its box."""
    generator = np.random.default_rng(0)
    for name in ("images", "annotations"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        pixels = generator.integers(80, 160, (120, 160, 3), dtype=np.uint8)
        name, shade = ("bright", 250) if number % 2 else ("dark", 5)
        x, y = (int(v) for v in generator.integers(5, 60, 2))
        pixels[y : y + 40, x : x + 50] = shade
        Image.fromarray(pixels).save(folder / "images" / f"{number:04}.jpg")
        (folder / "annotations" / f"{number:04}.xml").write_text(
            f"<annotation><filename>{number:04}.jpg</filename>"
            "<size><width>160</width><height>120</height><depth>3</depth></size>"
            f"<object><name>{name}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin>"
            f"<xmax>{x + 50}</xmax><ymax>{y + 40}</ymax></bndbox></object></annotation>",
            encoding="utf-8",
        )


def run_shell(block: Block) -> None:
    """Run the commands of a block in the current folder."""
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "slimdet":
            teacher = words[-1] == "small.yaml"
            if words[1] in {"run", "check"}:
                words += TINY + (TINY_TEACHER if teacher else [])
            if words[1] == "run":
                assert slimdet(["check", *words[2:]]) == 0
                words += [SLIM_STUDENT, *([SLIM_TEACHER] if teacher else [])]
            assert slimdet(words[1:]) == 0, line
        else:
            assert words[0] in {"mkdir", "tar"}, f"no rule for {words[0]}: add one here"
            subprocess.run(words, check=True)


@pytest.mark.slow
def test_the_tutorial_goes_from_pictures_to_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    for block in TUTORIAL:
        if block.language == "yaml":
            (name,) = re.findall(r"`(\w+\.yaml)`", block.before)
            (tmp_path / name).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, "tutorial", "exec"), {"__name__": "__main__"})
        elif block.language == "sh" and "venv" not in block.text:
            run_shell(block)
    for made in (
        "runs/plain/report/report.html",
        "runs/small/report/report.html",
        "seen/0000.jpg",
        "boxes/predictions.json",
    ):
        assert (tmp_path / made).is_file(), made
