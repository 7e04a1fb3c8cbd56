"""A sample of the drill: what a bundle holds is checked before it is used."""

from pathlib import Path

import pytest

from export import verify
from tests.drill import bundles, judge


@pytest.fixture(scope="module")
def good(dynamic_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundles.make_bundle(tmp_path_factory.mktemp("good") / "good", dynamic_model)


def test_the_bundle_that_is_changed_is_good(good):
    assert verify.main([str(good)]) == 0


def test_every_named_change_is_told_by_verify_in_one_line(good, tmp_path):
    count = len(bundles._fixed())
    for case in bundles.cases(good, tmp_path, seed=0, count=count):
        done = judge.run("export.verify", [str(case.folder)])
        assert not done.broken, f"{case.name}: {done.broken}"
        assert done.code == 6 or not case.fatal, f"{case.name}: {done.code} {done.out}"


@pytest.mark.slow
def test_every_command_keeps_its_promise_on_changed_bundles(good, tmp_path):
    picture = bundles.photograph(tmp_path / "photo.png")
    for case in bundles.cases(good, tmp_path / "room", seed=1, count=75):
        for module, arguments in bundles.commands(case.folder, tmp_path / "out", picture):
            done = judge.run(module, arguments, limit=60)
            assert not done.broken, f"{case.name}: {module}: {done.broken}"
