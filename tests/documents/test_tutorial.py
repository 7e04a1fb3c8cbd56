"""The tutorial, command after command, on drawn pictures and with a few training steps."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.documents.blocks import Block, blocks

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = blocks((ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"))
# What makes the tutorial's recipes small: everything else stays as it is written.
TINY = [
    "data.image_size=64",
    "train={steps: 2, batch: 2}",
    "benchmark={repeats: 1, blocks: 2, calls_per_block: 2, warmup: 1, images: 2}",
    "export.parity_images=2",
    "export.calibration.count=4",
]
TINY_TEACHER = ["teacher.train={steps: 2, batch: 2}"]


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


def run(arguments: list[str], folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stdout}\n{done.stderr}"


def run_shell(block: Block, folder: Path) -> None:
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words[0] == "slimdet":
            if words[1] in {"run", "check"}:
                words += TINY + (TINY_TEACHER if words[2] == "small.yaml" else [])
            words = [sys.executable, "-m", "slimdet", *words[1:]]
        else:
            assert words[0] in {"mkdir", "tar"}, f"no rule for {words[0]}: add one here"
        run(words, folder)


@pytest.mark.slow
def test_the_tutorial_goes_from_pictures_to_boxes(tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures")
    for block in TUTORIAL:
        if block.language == "yaml":
            (name,) = re.findall(r"`(\w+\.yaml)`", block.before)
            (tmp_path / name).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            run([sys.executable, "-c", block.text], tmp_path)
        elif block.language == "sh" and "venv" not in block.text:
            run_shell(block, tmp_path)
    for made in (
        "runs/plain/report/report.html",
        "runs/small/report/report.html",
        "seen/0000.jpg",
        "boxes/predictions.json",
    ):
        assert (tmp_path / made).is_file(), made
