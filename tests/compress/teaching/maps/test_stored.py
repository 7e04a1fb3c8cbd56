"""Teachers from disk: the losses are those with the network; an interrupted store is finished."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from compress.console import Console
from compress.data.loading import view_batches
from compress.data.views import views_of
from compress.distillation.distiller import Distiller
from compress.distillation.teacher import LiveTeacher
from compress.losses import LossConfig
from compress.stages.opened import Run
from compress.teaching.maps.rows import STORABLE
from compress.teaching.maps.store import FIXED, Store
from compress.teaching.maps.stored import (
    Lesson,
    StoredTeacher,
    check_stored,
    cost_ms,
    fill_store,
    open_store,
)
from export.errors import ToolkitError
from tests.compress.smoke import opened_smoke

LOSS: TypeAdapter[LossConfig] = TypeAdapter(LossConfig)
FROM_STORE: list[dict[str, Any]] = [
    {"type": "pkd"},
    {"type": "bckd"},
    {"type": "ld"},
    {"type": "fgfi"},
    {"type": "fgd"},
    {"type": "mgd"},
    {"type": "cwd"},
    {"type": "gid", "min_size_px": 2},
    {"type": "defeat"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("stored")
    unlabeled = "data.unlabeled={split: train, count: 12, rest: true}"
    return opened_smoke(folder, unlabeled, "data.augment={flip: 0.5, scale: [0.9, 1.1]}")


@pytest.fixture(scope="module")
def lesson(run: Run) -> Lesson:
    torch.manual_seed(1)
    network, student = run.teachers[0].build(1), run.build_student(0)
    live = LiveTeacher(network, student.spec, "fp32")
    views = views_of(
        run.data,
        batch=4,
        unlabeled_batch=2,
        steps=8,
        mosaic_until=8,
        most=2,
        most_unlabeled=2,
        seed=0,
    )
    wanted = network.spec.provides & STORABLE
    return Lesson(live, {"of": "a test"}, run.data, views, wanted, torch.device("cpu"))


def small_parts(store: Store) -> Store:
    store.size = 5
    return store


def parts_of(store: Store) -> list[bytes]:
    return [path.read_bytes() for path in sorted(store.folder.glob("*.safetensors"))]


@pytest.fixture(scope="module")
def store(lesson: Lesson, tmp_path_factory: pytest.TempPathFactory) -> Store:
    found = small_parts(open_store(lesson, tmp_path_factory.mktemp("stores")))
    fill_store(lesson, found, Console(quiet=True))
    return found


@pytest.mark.parametrize("config", FROM_STORE, ids=lambda config: config["type"])
def test_a_loss_from_the_store_is_that_of_the_network(
    run: Run, lesson: Lesson, store: Store, config: dict[str, Any]
) -> None:
    stored = StoredTeacher(store, lesson.teacher.spec, lesson.views)
    batch = next(view_batches(run.data, lesson.views, [range(6)]))
    found = []
    for teacher in (lesson.teacher, stored):
        torch.manual_seed(0)
        objective = Distiller(run.build_student(0), teacher, [LOSS.validate_python(config)]).train()
        torch.manual_seed(2)  # MGD draws
        terms = objective(batch)
        found.append({name: term for name, term in terms.items() if not name.startswith("task")})
    live, read = found
    assert live.keys() == read.keys()
    assert any(term > 0 for term in live.values())
    for name, term in live.items():
        # logits are rounded to 2^-11 of their size, and GID's choice of instances follows them
        torch.testing.assert_close(read[name], term, rtol=2e-2, atol=1e-5)


def test_nothing_runs_and_the_pictures_are_those_of_the_views(lesson: Lesson, store: Store) -> None:
    stored = StoredTeacher(store, lesson.teacher.spec, lesson.views)
    assert stored.network is None
    assert stored.views is lesson.views
    objective = Distiller(lesson.teacher.network, stored, [LOSS.validate_python({"type": "pkd"})])
    assert objective.teacher is None
    assert objective.views is lesson.views


def test_an_interrupted_store_is_finished_bit_for_bit(
    lesson: Lesson, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, write = small_parts(open_store(lesson, tmp_path)), Store.write

    def interrupted(self: Store, part: int, *rest: Any) -> None:
        if part == 2:
            raise KeyboardInterrupt
        write(self, part, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(Store, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fill_store(lesson, again, Console(quiet=True))
    assert again.missing() == list(again.parts)[2:]
    first = (again.folder / "part-00000.safetensors").stat().st_mtime_ns
    fill_store(lesson, again, Console(quiet=True))
    assert parts_of(again) == parts_of(store)
    assert (again.folder / "part-00000.safetensors").stat().st_mtime_ns == first
    assert cost_ms(again) > 0


def test_two_processes_fill_the_store_that_one_does(
    lesson: Lesson, store: Store, tmp_path: Path
) -> None:
    shared = small_parts(open_store(lesson, tmp_path))
    # the second looks for missing parts when the first has written its own
    for rank in (0, 1):
        other = small_parts(open_store(lesson, tmp_path))
        fill_store(lesson, other, Console(quiet=True), rank=rank, world=2)
    assert shared.missing() == []
    assert parts_of(shared) == parts_of(store)


@pytest.mark.parametrize("content", [None, b"damaged"])
def test_anchors_that_are_missing_or_damaged_are_made_anew(
    lesson: Lesson, store: Store, tmp_path: Path, content: bytes | None
) -> None:
    shutil.copytree(store.folder, tmp_path / store.folder.name)
    copied = small_parts(open_store(lesson, tmp_path))
    fixed = copied.folder / FIXED
    fixed.unlink() if content is None else fixed.write_bytes(content)
    fill_store(lesson, copied, Console(quiet=True))
    assert parts_of(copied) == parts_of(store)


def test_a_full_disk_in_the_middle_keeps_what_is_written(
    lesson: Lesson, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = small_parts(open_store(lesson, tmp_path))
    (store.folder / "part-00002.safetensors.partial").mkdir(parents=True)  # cannot be written
    with pytest.raises(ToolkitError, match="part-00002"):
        fill_store(lesson, store, Console())
    assert store.missing() == list(store.parts)[2:]
    (store.folder / "part-00002.safetensors.partial").rmdir()
    fill_store(lesson, store, Console())
    assert store.missing() == []
    assert f"2 of {len(store.parts)} parts kept" in capsys.readouterr().err


def test_another_teacher_other_views_and_another_size_have_stores_of_their_own(
    lesson: Lesson, run: Run, tmp_path: Path
) -> None:
    other = LiveTeacher(run.teachers[0].build(2), lesson.teacher.spec, "fp32")
    augment = run.data.augment.model_copy(update={"flip": 0.25})
    lessons = [
        lesson,
        replace(lesson, teacher=other),
        replace(lesson, views=replace(lesson.views, seed=1)),
        replace(lesson, wanted=frozenset({"features"})),
        replace(lesson, data=replace(lesson.data, augment=augment)),
        replace(lesson, settings={"of": "another test"}),
    ]
    assert len({open_store(one, tmp_path).folder for one in lessons}) == len(lessons)


def test_outputs_that_are_not_finite_are_refused(run: Run, lesson: Lesson, tmp_path: Path) -> None:
    network = run.teachers[0].build(1)
    with torch.no_grad():
        next(network.neck.parameters()).fill_(float("nan"))
    live = LiveTeacher(network, lesson.teacher.spec, "fp32")
    broken = replace(lesson, teacher=live)
    with pytest.raises(ToolkitError, match=r"teach: the teacher's features\.0 of picture \d+ is"):
        fill_store(broken, open_store(broken, tmp_path), Console(quiet=True))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"type": "crosskd"}, "crosskd compares towers, which cannot be stored"),
        ({"type": "ikd", "base": {"type": "pkd"}}, "ikd passes images of its own"),
    ],
)
def test_a_loss_that_needs_the_network_is_refused(
    lesson: Lesson, config: dict[str, Any], said: str
) -> None:
    spec, pkd = lesson.teacher.spec, LOSS.validate_python({"type": "pkd"})
    losses: Sequence[LossConfig] = [pkd, LOSS.validate_python(config)]
    found = check_stored(spec, spec, losses)
    assert [index for index, _ in found] == [1]
    assert said in found[0][1]


def test_a_store_of_nothing_is_refused(lesson: Lesson) -> None:
    spec, losses = lesson.teacher.spec, [LOSS.validate_python({"type": "pseudo_labels"})]
    assert "found once in any case; remove teach" in check_stored(spec, spec, losses)[0][1]
    mixed = [*losses, LOSS.validate_python({"type": "pkd"})]
    assert check_stored(spec, spec, mixed) == []
