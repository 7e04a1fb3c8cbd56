"""A seeded sample of the drill of broken recipes, and the judge's own rules."""

import math
from pathlib import Path

import pytest

from tests.drill.recipes import Case, Counts, cases, drill, judge, nonsense
from tests.drill.teachers import taught_recipes


@pytest.mark.slow
def test_every_key_has_its_turn(tmp_path: Path) -> None:
    assert len({case.name for case in cases(0, 1000, tmp_path)}) > 700


@pytest.mark.slow
def test_the_recipes_of_teachers_that_run_once_are_right(tmp_path: Path) -> None:
    for name, text in taught_recipes(tmp_path / "given").items():
        counts = Counts()
        judge(Case(name, text.encode()), tmp_path, counts)
        assert (counts.codes[0], counts.broken) == (1, []), name


def test_the_judge_tells_nonsense_that_was_accepted(tmp_path: Path) -> None:
    assert nonsense({"a": [{"b": math.inf}], "c": 1.0, "d": True}) == ["accepted a[0].b: inf"]
    assert nonsense({"name": "\x1b[31m"}) == ["accepted name: '\\x1b[31m'"]
    counts = Counts()
    judge(Case("empty", b""), tmp_path, counts)
    assert (counts.codes[2], counts.broken) == (1, [])


@pytest.mark.slow
def test_a_sample_of_broken_recipes_keeps_every_promise(tmp_path: Path) -> None:
    counts = drill(tmp_path, seed=1, count=60)
    assert counts.broken == []
    assert counts.codes.total() == 60
