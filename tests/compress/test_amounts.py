"""Numbers of a recipe that pass what there is: pictures, steps, processors, memory."""

from pathlib import Path

import pytest

from benchmarks.timing.environment import usable_cores
from compress.checking.amounts import check_amounts
from compress.console import Console
from compress.recipe import load_recipe
from export.errors import DataError, RecipeError, ToolkitError
from tests.compress.smoke import opened_smoke, write_smoke

CORES = usable_cores()


def warned(folder: Path, capsys: pytest.CaptureFixture[str], *overrides: str) -> list[str]:
    """Return the warnings about a recipe's numbers."""
    run = opened_smoke(folder, *overrides)
    run.session.console = Console()
    capsys.readouterr()
    check_amounts(run)
    return [line for line in capsys.readouterr().err.splitlines() if line]


def test_a_recipe_whose_numbers_there_are_is_not_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = f"benchmark.threads={CORES}"
    assert warned(tmp_path, capsys, threads, "teach={views: 2}", "data.train.limit=12") == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.evaluations=5", "train.evaluations: 5, and there are 4 steps; each is followed"),
        ("teacher.train.evaluations=3", "teacher.train.evaluations: 3, and there are 2 steps"),
        ("train.patience=2", "train.patience: has no effect, as there are 2 evaluations"),
        ("train.workers=200", "workers take memory and no less time"),
        ("train.gamma=0.5", "train.gamma: has no effect with schedule: one_cycle"),
        ("train.milestones=[0.5]", "has no effect with schedule: one_cycle"),
        ("train.momentum=0.5", "train.momentum: has no effect with optimizer: adamw"),
        ("train={steps: 4, batch: 4, schedule: step, final_lr: 0.5}", "has no effect with sched"),
        ("export.calibration.count=9", "count: 9, and there are 8 pictures of train, which are"),
        ("export.calibration={images: 9}", "9, and there are 8 pictures of train"),
        ("export.quantization.check_images=5", "5, and there are 4 pictures in half of train"),
        ("export.parity_images=5", "export.parity_images: 5, and there are 4 pictures of val"),
        ("benchmark.images=5", "benchmark.images: 5, and there are 4 pictures of val"),
        ("teach={views: 3}", "teach.views: 3, and the training sees a picture 2 times"),
        ("teach={views: 2, unlabeled_views: 2}", "has no effect without data.unlabeled"),
        ("data.cache_gib=100000", "data.cache_gib: 100000, and this machine has"),
    ],
)
def test_what_is_cut_or_has_no_effect_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, said: str
) -> None:
    (line,) = warned(tmp_path, capsys, override)
    assert said in line


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (f"benchmark.threads={CORES + 1}", f"set at most {CORES}, or remove this key"),
        (
            "train={epochs: 1, batch: 4, accumulate: 3}",
            "train.accumulate: 3 batches to an optimiser step, and 1 epoch of 2 batches have fewer",
        ),
        ("data.train.limit=13", "data.train.limit: 13, and there are 12 pictures to choose from"),
        ("data.val={count: 1, limit: 2}", "data.val.limit: 2, and there is 1 picture"),
        (
            "data.unlabeled={split: train, count: 12, rest: true, limit: 5}",
            "data.unlabeled.limit: 5, and there are 4 pictures to choose from; set at most 4",
        ),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises((RecipeError, DataError)) as caught:
        check_amounts(opened_smoke(tmp_path, override))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("benchmark.time_limit_s=1e-9", "benchmark.time_limit_s: expected at least 0.1"),
        ("benchmark.throughput_s=1e-9", "benchmark.throughput_s: expected at least 0.01"),
        ("train.time_budget_minutes=1e-9", "time_budget_minutes: expected at least 0.001"),
        ("benchmark={blocks: 10000, calls_per_block: 100000}", "make 3000000000 calls"),
        ("benchmark.batch=8", "the exported graph takes one picture; set export.dynamic_batch"),
        ("export.evaluation_score_threshold=0.5", "is above score_threshold 0.25"),
        ("export.evaluation_score_threshold=1", "expected a number below 1"),
        ("export.score_threshold=1", "expected a number below 1"),
        ("train.lr=1e-300", "expected at least 1e-09"),
        ("train.weight_decay=100", "times weight_decay 100"),
        ("train.clip=1e-300", "train.clip: expected at least 1e-12"),
        ("distill.0.weight=1e-300", "distill[0].weight: expected at least 1e-12"),
        ("distill.0.ratio=1e9", "distill[0].ratio: expected at most 1000"),
        ("distill.0.temperature_object=1e-300", "temperature_object: expected at least 0.001"),
        ("distill=[{type: pkd, levels: 1000000}]", "distill[0].levels: expected at most 8"),
        ("data.train.rest=true", "data.train.rest: is for data.unlabeled alone"),
    ],
)
def test_what_makes_no_sense_anywhere_is_refused(tmp_path: Path, override: str, said: str) -> None:
    path = write_smoke(tmp_path)
    more = ["train.lr=0.01"] if "weight_decay" in override else []
    with pytest.raises(ToolkitError) as caught:
        load_recipe(path, [override, *more])
    assert said in str(caught.value)


@pytest.mark.parametrize("scale", ["1000", "1e-9"])
def test_anchors_that_no_object_has_the_size_of_are_refused(tmp_path: Path, scale: str) -> None:
    detector = f"student={{type: retinanet, backbone: resnet18, anchor_scale: {scale}}}"
    with pytest.raises(RecipeError, match="for an input of 64 x 64 px; most detectors have"):
        opened_smoke(tmp_path, detector).build_student(0)


@pytest.mark.parametrize("zoom", ["0.01", "100"])
def test_a_zoom_that_leaves_no_box_is_refused(tmp_path: Path, zoom: str) -> None:
    with pytest.raises(DataError, match=f"left out of training.* zoomed by {zoom} to {zoom} "):
        opened_smoke(tmp_path, f"data.augment.scale=[{zoom}, {zoom}]")
