"""A sample of the data sets of `python -m tests.drill data`."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.drill.data import Case, Counts, cases, drill, judge
from tests.drill.data_sets import write_set

pytestmark = pytest.mark.slow  # each case is a whole --check


def test_a_sample_of_changed_data_sets_keeps_every_promise(tmp_path: Path) -> None:
    counts = drill(tmp_path, seed=11, count=24)
    assert counts.broken == []
    assert counts.accepted + counts.refused == 24
    assert counts.accepted > 4
    assert counts.refused > 4


def test_the_judge_notices_what_is_not_as_promised(tmp_path: Path) -> None:
    good = write_set("coco", tmp_path / "data", seed=3)
    case = Case("good", good, "same")
    assert judge(case, Counts()) == []
    assert judge(replace(case, expected="refused"), Counts()) == ["good: accepted"]
    (said,) = judge(replace(case, expected="counted"), Counts())
    assert "one object should be left out" in said
    other = replace(good, photos={**good.photos, "val": good.photos["train"]})
    assert "pictures, 6 were drawn" in judge(replace(case, good=other), Counts())[0]


def test_equal_seeds_give_equal_cases(tmp_path: Path) -> None:
    first, second = (
        [case.name for case in cases(tmp_path / str(run), seed=5, count=3)] for run in range(2)
    )
    assert first == second
