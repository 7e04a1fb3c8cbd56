"""A sample of the disturbed runs of `python -m tests.drill kills`, and the judge's own rules."""

import random
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from tests.drill.kills import KINDS, WHOLE, cases, drill
from tests.drill.run_damage import DAMAGES, advised, damage
from tests.drill.run_results import STAGES
from tests.processes import METHOD


def test_every_kind_and_every_stage_has_its_turn() -> None:
    found = list(cases(3, 200, list(STAGES)))
    assert {case.kind for case in found} == {*KINDS, "threads"}
    assert {case.stage for case in found if case.kind == "kill"} == {*STAGES, "end", WHOLE}
    assert found == list(cases(3, 200, list(STAGES)))


def test_advice_is_followed_inside_of_the_runs_alone(tmp_path: Path) -> None:
    runs, other = tmp_path / "runs", tmp_path / "other"
    for folder in (runs / "a", other):
        folder.mkdir(parents=True)
    (runs / "last.pt").touch()
    assert advised(f"error: x: delete {other} to go on", runs) is None
    assert advised(f"error: x: restore it, or delete {runs / 'a'} to go on", runs) == runs / "a"
    said = f"error: {runs / 'last.pt'}: is damaged; delete it to begin again\n"
    assert advised(said, runs) == runs / "last.pt"
    assert other.exists()
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize("how", DAMAGES)
def test_every_damage_changes_the_file(tmp_path: Path, how: str) -> None:
    path = tmp_path / "runs" / "smoke" / "a.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"a": 1}')
    (path.parent / "b.json").write_text('{"a": 2}')
    damage(path, how, random.Random(1))
    assert not path.is_file() or path.read_text(errors="replace") != '{"a": 1}'


@pytest.mark.slow
def test_a_sample_of_disturbed_runs_keeps_every_promise(tmp_path: Path) -> None:
    # In an interpreter of its own: it forks, which torch refuses once its gradients had threads.
    with ProcessPoolExecutor(1, mp_context=get_context(METHOD)) as pool:
        counts = pool.submit(drill, tmp_path, seed=2, count=6, small=True).result()
    assert counts.broken == []
    assert counts.kills.total() >= 1
    assert counts.cases.keys() == {"kill", "damage"}
