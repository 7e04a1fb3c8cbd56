"""A recipe that passes through every stage in seconds."""

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from textwrap import indent

import pytest

from compress.console import Console
from compress.recipe import load_recipe
from compress.run import main
from compress.stages.opened import Run
from compress.stages.session import Session

TINY = """\
type: gfl
backbone: {type: slim_resnet, stem: 16, widths: [16, 16, 16, 16]}
width: 16
head_depth: 1
reg_max: 4
strides: [8, 16]
norm: group
"""
SMOKE = (
    """\
schema: 1
name: smoke
data:
  type: shapes
  image_size: 64
  train: {count: 12, limit: 8}
  val: {count: 4}
  augment: {flip: 0.5}
teacher:
  detector: &tiny
"""
    + indent(TINY, "    ")
    + """\
  train: {epochs: 1, batch: 4, evaluations: 1, amp: "off", checkpoint_every_s: 0.001}
student: *tiny
distill:
  - {type: defeat}
  - {type: gid, min_size_px: 2, relation_weight: 1}
train: {steps: 4, batch: 4, evaluations: 2, amp: "off", checkpoint_every_s: 0.001}
export: {precisions: [fp32], parity_images: 2, calibration: {count: 4}}
benchmark: {repeats: 1, blocks: 2, calls_per_block: 2, warmup: 1, images: 2, throughput_batches: []}
"""
)


# What `finished_run` adds: a second seed, every precision, NMS in the graph, fresh processes.
WHOLE = (
    "train.epochs=1",
    "seeds=2",
    "export.precisions=[fp32, fp16, int8, int8-trt]",
    "export.nms=graph",
    "benchmark.repeats=2",
)


def write_smoke(folder: Path, name: str = "recipe.yaml") -> Path:
    """Write the recipe into `folder`."""
    path = folder / name
    path.write_text(SMOKE, encoding="utf-8")
    return path


def assert_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], code: int, said: str
) -> None:
    """Run the recipe with overrides; expect the exit code and the words, and no traceback."""
    assert main([str(write_smoke(folder)), *overrides, "--runs", str(folder / "r")]) == code
    printed = capsys.readouterr().err
    assert said in printed
    assert "Traceback" not in printed


def opened_smoke(folder: Path, *overrides: str, quiet: bool = True) -> Run:
    """Open the recipe, with `folder/run` as the run's folder."""
    path = write_smoke(folder)
    recipe, source = load_recipe(path, overrides)
    session = Session(folder / "run", "cpu", Console(quiet=quiet))
    return Run.open(session, recipe, source)


def make_finished(folder: Path) -> None:
    """Carry out the recipe with `WHOLE` in `folder/runs`; write the line that `--json` prints."""
    said = StringIO()
    with redirect_stdout(said):
        given = [str(write_smoke(folder)), "--runs", str(folder / "runs"), "--json", *WHOLE]
        assert main(given) == 0
    (folder / "said.json").write_text(said.getvalue().splitlines()[-1], encoding="utf-8")
