"""A sample of the drill: what a bundle holds is checked before it is used."""

from pathlib import Path

import pytest

from export import verify
from tests.drill import bundles, judge

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    return bundles.make_bundle(folder / "good", bundles.make_model(folder / "model"))


def test_the_bundle_that_is_changed_is_good(good):
    assert verify.main([str(good)]) == 0


def test_every_named_change_is_told_by_verify_in_one_line(good, tmp_path):
    count = len(bundles._fixed())
    for case in bundles.cases(good, tmp_path, seed=0, count=count):
        done = judge.run("export.verify", [str(case.folder)])
        assert not done.broken, f"{case.name}: {done.broken}"
        assert done.code == 6 or not case.fatal, f"{case.name}: {done.code} {done.out}"


def test_every_command_keeps_its_promise_on_changed_bundles(good, tmp_path):
    picture, counts = bundles.photograph(tmp_path / "photo.png"), bundles.Counts()
    for case in bundles.cases(good, tmp_path / "stage", seed=1, count=75):
        bundles.judge(case, tmp_path / "out", picture, counts)
    assert counts.broken == []
