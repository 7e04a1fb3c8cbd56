import multiprocessing
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.data.image_set import ImageSet, read_canvas, read_coco
from compress.batch import Batch, ScoredBoxes
from compress.data.augment import AugmentConfig
from compress.data.canvases import CanvasCache
from compress.data.config import Data, FolderConfig, ShapesConfig
from compress.data.loading import steps_per_epoch, training_batches
from compress.data.schedule import Schedule
from compress.data.split_settings import SplitConfig
from compress.data.taught import Taught
from compress.teaching.boxes import TaughtBoxes
from export.errors import DataError
from export.pictures.images import to_tensor
from tests.benchmarks.data.tiny import coco, write_coco, write_coco_root

VARIED = AugmentConfig(flip=0.5, transpose=0.3, scale=(0.7, 1.4), color=0.2, mosaic=0.3)


def _drawn(count: int = 10, augment: AugmentConfig = VARIED) -> Data:
    return ShapesConfig(
        type="shapes",
        image_size=32,
        train=SplitConfig(count=count),
        val=SplitConfig(count=2),
        unlabeled=SplitConfig(count=5),
        augment=augment,
    ).open()


def _batches(data: Data, start: int = 0, steps: int = 6, **more: Any) -> list[Batch]:
    settings: dict[str, Any] = {"batch": 4, "seed": 3, "unlabeled_batch": 2} | more
    return list(training_batches(data, start_step=start, steps=steps, **settings))


def _same(first: Batch, second: Batch) -> bool:
    boxes = zip(first.targets, second.targets, strict=True)
    return (
        torch.equal(first.images, second.images)
        and torch.equal(first.sizes, second.sizes)
        and first.image_ids == second.image_ids
        and first.labeled == second.labeled
        and all(torch.equal(a.boxes, b.boxes) for a, b in boxes)
        and all(
            torch.equal(a.labels, b.labels)
            for a, b in zip(first.targets, second.targets, strict=True)
        )
        and _same_taught(first.taught, second.taught)
    )


def _same_taught(first: Sequence[ScoredBoxes], second: Sequence[ScoredBoxes]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, other)
        for pair in zip(first, second, strict=True)
        for one, other in zip(*pair, strict=True)
    )


def _known(images: ImageSet) -> TaughtBoxes:
    """A teacher that finds exactly the boxes of the labels; scores fall from picture to picture."""
    found = [
        ScoredBoxes(
            torch.from_numpy(image.boxes),
            torch.from_numpy(image.labels),
            torch.full((len(image.labels),), 1 / (1 + index)),
        )
        for index, image in enumerate(images.images)
    ]
    return TaughtBoxes.of_pictures(found, ("a", "b", "c"), "a test")


def _taught(data: Data) -> Taught:
    assert data.unlabeled is not None
    return Taught(_known(data.train), _known(data.unlabeled))


def _twice() -> Data:
    """The labelled pictures also in place of those without labels, with their boxes."""
    data = _drawn()
    return replace(data, unlabeled=data.train)


def test_a_batch_holds_labelled_pictures_first_and_no_box_on_the_others() -> None:
    batch = _batches(_drawn(), steps=1)[0]
    assert batch.images.shape == (6, 3, 32, 32)
    assert batch.images.dtype == torch.float32
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert batch.labeled == 4
    assert len(batch.targets) == 6
    assert all(len(target.boxes) for target in batch.targets[:4])
    assert all(target.boxes.shape == (0, 4) for target in batch.targets[4:])
    assert batch.targets[0].boxes.dtype == torch.float32
    assert batch.targets[0].labels.dtype == torch.int64
    assert batch.sizes.tolist() == [[32, 32]] * 6
    assert batch.sizes.dtype == torch.int64


def test_an_epoch_shows_every_picture_once_and_the_next_one_in_another_order() -> None:
    ids = [b.image_ids for b in _batches(_drawn(8), steps=4, unlabeled_batch=0)]
    assert sorted(ids[0] + ids[1]) == list(range(1, 9))
    assert sorted(ids[2] + ids[3]) == list(range(1, 9))
    assert ids[0] + ids[1] != ids[2] + ids[3]


def test_boxes_of_a_teacher_are_changed_as_the_labels_are() -> None:
    data = _twice()
    batches = _batches(data, steps=8, taught=_taught(data))
    for batch in batches:
        assert len(batch.taught) == len(batch.targets) == 6
        for target, found in zip(batch.targets, batch.taught, strict=True):
            assert torch.equal(found.boxes, target.boxes)
            assert torch.equal(found.labels, target.labels)
            assert found.scores.shape == found.labels.shape
    scores = [set(found.scores.tolist()) for batch in batches for found in batch.taught]
    assert max(map(len, scores)) > 1, "a mosaic holds the boxes of several pictures"
    assert min(map(len, scores)) == 1


def test_boxes_of_a_teacher_change_nothing_else() -> None:
    data = _drawn()
    assert data.unlabeled is not None
    nothing = Taught(
        *(
            TaughtBoxes.of_pictures([_NOTHING] * len(one), ("a",), "a test")
            for one in (data.train, data.unlabeled)
        )
    )
    plain, empty = _batches(data), _batches(data, taught=nothing)
    full = _batches(data, taught=_taught(data))
    for batch, with_none, with_boxes in zip(plain, empty, full, strict=True):
        assert batch.taught == ()
        assert [len(found.scores) for found in with_none.taught] == [0] * 6
        assert sum(len(found.scores) for found in with_boxes.taught) > 0
        assert _same(batch, with_none._replace(taught=()))
        assert _same(batch, with_boxes._replace(taught=()))


_NOTHING = ScoredBoxes(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0))


@pytest.mark.parametrize("missing", ["train", "unlabeled"])
def test_boxes_of_a_teacher_for_other_pictures_are_refused(missing: str) -> None:
    data = _drawn()
    whole, count, have = _taught(data), 0, 5
    taught = Taught(whole.train)
    if missing == "train":
        taught, count, have = Taught(_known(_drawn(4).train), whole.unlabeled), 4, 10
    with pytest.raises(
        DataError, match=f"those of {count} pictures, but data.{missing} has {have}"
    ):
        _batches(data, taught=taught)


@pytest.mark.slow
def test_a_resumed_run_sees_the_same_batches() -> None:
    data = _twice()
    taught = _taught(data)
    whole = _batches(data, steps=7, taught=taught)
    for start in (1, 3, 6):
        resumed = _batches(data, start, 7 - start, taught=taught)
        assert all(_same(a, b) for a, b in zip(whole[start:], resumed, strict=True))


MOSAICS, STILL = (AugmentConfig(flip=0.5, scale=(0.7, 1.4), mosaic=each) for each in (1.0, 0.0))


def test_mosaics_end_at_the_step_that_is_given_and_nothing_else_changes() -> None:
    closed = _batches(_drawn(augment=MOSAICS), steps=6, mosaic_until=4)
    mosaics, still = (_batches(_drawn(augment=one), steps=6) for one in (MOSAICS, STILL))
    assert all(_same(a, b) for a, b in zip(closed[:4], mosaics[:4], strict=True))
    assert all(_same(a, b) for a, b in zip(closed[4:], still[4:], strict=True))
    assert not any(_same(a, b) for a, b in zip(mosaics, still, strict=True))


def test_a_resumed_run_ends_its_mosaics_at_the_same_step() -> None:
    data = _drawn(augment=MOSAICS)
    whole = _batches(data, steps=6, mosaic_until=4)
    for start in (2, 4, 5):
        resumed = _batches(data, start, 6 - start, mosaic_until=4)
        assert all(_same(a, b) for a, b in zip(whole[start:], resumed, strict=True))


def test_all_processes_end_their_mosaics_at_the_same_step() -> None:
    data = _drawn(augment=MOSAICS)
    whole = _batches(data, steps=4, mosaic_until=2)
    for rank, rows in enumerate(([0, 1, 4], [2, 3, 5])):
        parts = _batches(data, steps=4, mosaic_until=2, rank=rank, world=2)
        for batch, part in zip(whole, parts, strict=True):
            assert torch.equal(part.images, batch.images[rows])


def test_another_seed_changes_order_and_augmentation() -> None:
    data = _drawn()
    assert not _same(_batches(data, steps=1)[0], _batches(data, steps=1, seed=4)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    "order",  # of each process: its labelled slice, then its unlabelled one
    [([0, 1, 4], [2, 3, 5]), ([0], [1, 4], [2, 3, 5])],
    ids=["two, evenly", "three, unevenly"],
)
def test_processes_share_each_batch_of_one(order: Sequence[list[int]]) -> None:
    data = _twice()
    taught = _taught(data)
    whole = _batches(data, taught=taught)
    count = len(order)
    ranks = [_batches(data, rank=rank, world=count, taught=taught) for rank in range(count)]
    for step, batch in enumerate(whole):
        for steps, rows in zip(ranks, order, strict=True):
            part = steps[step]
            assert part.labeled == sum(row < batch.labeled for row in rows)
            assert torch.equal(part.images, batch.images[rows])
            assert part.image_ids == tuple(batch.image_ids[row] for row in rows)
            assert _same_taught(part.taught, [batch.taught[row] for row in rows])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("mosaic_until", [None, 2])
def test_worker_processes_change_nothing(tmp_path: Path, mosaic_until: int | None) -> None:
    data = FolderConfig(root=write_coco_root(tmp_path, 6), image_size=32, augment=VARIED).open()
    more: dict[str, Any] = {"unlabeled_batch": 0, "mosaic_until": mosaic_until}
    more["taught"] = Taught(_known(data.train))
    alone = _batches(data, steps=4, **more)
    spread = _batches(data, steps=4, workers=2, **more)
    assert all(_same(a, b) for a, b in zip(alone, spread, strict=True))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_workers_go_on_when_all_processes_of_a_command_are_told_to_end(tmp_path: Path) -> None:
    data = FolderConfig(root=write_coco_root(tmp_path, 6), image_size=32).open()
    stream = training_batches(data, batch=2, seed=0, start_step=0, steps=9, workers=2)
    next(stream)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for name in ("INT", "HUP", "TERM"):  # as from a terminal or a service manager
            subprocess.run(["sh", "-c", f"kill -{name} {worker.pid}"], check=True)
    assert len(list(stream)) == 8
    unfinished = training_batches(data, batch=2, seed=0, start_step=0, steps=9, workers=1)
    next(unfinished)
    (worker,) = multiprocessing.active_children()
    worker.terminate()  # as torch and Python do at the end
    worker.join(timeout=10)
    assert worker.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_named_and_nothing_hangs(tmp_path: Path, workers: int) -> None:
    root = write_coco_root(tmp_path)
    (root / "images/3.png").write_bytes(b"not a picture")
    data = FolderConfig(root=root, image_size=32).open()
    with pytest.raises(DataError, match=r"^[^\n]*3\.png[^\n]*$"):
        _batches(data, batch=4, unlabeled_batch=0, workers=workers)


def test_a_picture_is_decoded_once_where_the_set_fits(tmp_path: Path) -> None:
    images = read_coco(write_coco(tmp_path, "train", coco(2)))
    cache = CanvasCache(images, 32, 32, 2 * 32 * 32 * 3)
    assert cache.bytes == 2 * 32 * 32 * 3
    first = cache.canvas(0).copy()
    images.paths[0].unlink()
    assert np.array_equal(cache.canvas(0), first)
    small = CanvasCache(images, 32, 32, 100)
    assert small.bytes == 0
    with pytest.raises(DataError, match="no such file"):
        small.canvas(0)


def test_as_many_pictures_are_kept_as_fit(tmp_path: Path) -> None:
    images = read_coco(write_coco(tmp_path, "train", coco(3)))
    cache = CanvasCache(images, 32, 32, 2 * 32 * 32 * 3 + 1)
    assert cache.bytes == 2 * 32 * 32 * 3
    canvases = [cache.canvas(index).copy() for index in range(3)]
    for path in images.paths:
        path.unlink()
    assert all(np.array_equal(cache.canvas(index), canvases[index]) for index in range(2))
    with pytest.raises(DataError, match="no such file"):
        cache.canvas(2)


def _large_jpegs(root: Path) -> Path:
    """Two JPEGs of five times the input's size, so that a fraction of them suffices."""
    for split, start in (("train", 1), ("val", 101)):
        document = coco(2, start=start)
        for image in document["images"]:
            image |= {"width": 160, "height": 120, "file_name": f"{image['id']}.jpg"}
        write_coco(root, split, document)
        for image in document["images"]:
            noise = np.random.default_rng(image["id"]).integers(0, 256, (120, 160, 3), np.uint8)
            Image.fromarray(noise).save(root / "images" / image["file_name"])
    return root


@pytest.mark.parametrize("fast", [False, True])
def test_training_decodes_in_full_unless_told_to_decode_fast(tmp_path: Path, fast: bool) -> None:
    settings: dict[str, Any] = {"fast_decode": True} if fast else {}
    root, still = _large_jpegs(tmp_path), AugmentConfig(flip=0.0, min_box_px=1.0)
    data = FolderConfig(root=root, image_size=32, augment=still, **settings).open()
    (batch,) = _batches(data, steps=1, batch=2, unlabeled_batch=0)
    order = [image.id for image in data.train.images]
    whole = [read_canvas(data.train, order.index(number), 32, 32)[0] for number in batch.image_ids]
    assert np.array_equal(batch.images.numpy(), to_tensor(whole)) is not fast


def test_a_cache_changes_no_batch() -> None:
    data = _drawn()
    bare = replace(data, cache_bytes=0)
    pairs = zip(_batches(data, steps=5), _batches(bare, steps=5), strict=True)
    assert all(_same(a, b) for a, b in pairs)


def test_boxes_are_scaled_to_the_input_and_crowds_left_out(tmp_path: Path) -> None:
    document = coco(2)
    document["annotations"].append(document["annotations"][0] | {"id": 9, "iscrowd": 1})
    images = read_coco(write_coco(tmp_path, "train", document))
    sample = CanvasCache(images, 64, 64, 0).sample(0)  # 40 x 30 at 1.6 is 64 x 48
    assert (sample.height, sample.width) == (48, 64)
    assert sample.boxes == pytest.approx(np.array([[4, 5, 14, 13]]) * 1.6)


def test_training_and_device_see_the_same_numbers() -> None:
    data = _drawn(augment=AugmentConfig(flip=0.0))
    batch = _batches(data, steps=1, unlabeled_batch=0)[0]
    cache = CanvasCache(data.train, 32, 32, 0)
    expected = to_tensor([cache.canvas(image_id - 1) for image_id in batch.image_ids])
    assert np.array_equal(batch.images.numpy(), expected)


@pytest.mark.slow
def test_batches_can_be_made_on_a_device() -> None:
    data = _drawn()
    pairs = zip(_batches(data), _batches(data, device=torch.device("cpu")), strict=True)
    assert all(_same(a, b) for a, b in pairs)


def test_incomplete_batches_are_left_out_of_an_epoch() -> None:
    data = _drawn(10)
    assert steps_per_epoch(data, 4) == 2
    schedule = Schedule(10, 4, 0, 0, seed=0)
    seen = {key.picture for step in (0, 1) for key in schedule.keys(step)}
    assert len(seen) == 8
    assert {key.epoch for key in schedule.keys(2)} == {1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 11}, "train.batch is 11, but shapes .* has only 10 pictures"),
        ({"unlabeled_batch": 6}, "unlabeled_batch is 6, but data.unlabeled has 5 pictures"),
        ({"world": 5}, "train.batch is 4, .*and 5 processes train: some would have none"),
    ],
)
def test_batches_that_cannot_be_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    settings = {"batch": 4, "unlabeled_batch": 2} | settings
    with pytest.raises(DataError, match=message):
        training_batches(_drawn(), seed=0, start_step=0, steps=1, **settings)


def test_stopping_early_leaves_no_thread_behind() -> None:
    import threading

    stream = training_batches(_drawn(), batch=4, seed=0, start_step=0, steps=10**6)
    next(iter(stream))
    stream.close()
    for thread in threading.enumerate():
        if thread.name.startswith("batches"):
            thread.join(timeout=60)
            assert not thread.is_alive()
