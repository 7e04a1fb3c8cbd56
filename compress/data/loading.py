"""Batches for training, reproducible at any step of a resumed or distributed run.

Which pictures a step sees, and how each is changed, depends on (seed, step) alone: not on the
number of worker processes, on earlier steps, or on the rank, which only takes its slice.
"""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.data.image_set import ImageSet
from compress.batch import Batch, ScoredBoxes, Targets
from compress.data.augment import AugmentConfig, Sample, augment
from compress.data.canvases import CanvasCache
from compress.data.config import Data
from compress.data.schedule import Key, Schedule
from compress.data.taught import Taught, check_taught
from compress.data.views import Views
from compress.data.workers import end_with_parent
from export.arguments import signals_for_this_process_alone
from export.errors import DataError, ToolkitError, counted

_AHEAD = 3  # batches prepared before they are asked for


class RawBatch(NamedTuple):
    """A batch on its way from a worker: few tensors, pictures still uint8."""

    pixels: Tensor  # (B, H, W, 3) uint8
    sizes: Tensor  # (B, 2)
    boxes: Tensor  # all boxes of the batch, (N + M, 4): the sets' own, then a teacher's
    labels: Tensor  # (N + M,)
    counts: list[int]  # the sets' own boxes per picture
    image_ids: tuple[int, ...]
    labeled: int
    scores: Tensor  # (M,) of a teacher's boxes
    taught_counts: list[int]  # a teacher's boxes per picture; empty without a teacher
    rows: tuple[int, ...] = ()  # with fixed views, see `Batch.rows`


@dataclass(frozen=True)
class Assembler(Dataset[RawBatch]):
    """Turns the keys of one step into a batch; runs in a thread or in worker processes."""

    labeled: CanvasCache
    unlabeled: CanvasCache | None
    config: AugmentConfig
    seed: int
    views: Views | None = None

    def assemble(self, keys: list[Key]) -> RawBatch:
        """Read, change and stack the pictures.

        Raises:
            DataError: a picture cannot be read.
        """
        cache = self.labeled
        pixels = np.empty((len(keys), cache.height, cache.width, 3), dtype=np.uint8)
        samples = [self._sample(key) for key in keys]
        for row, sample in enumerate(samples):
            pixels[row] = sample.pixels
        caches = [self._cache(key) for key in keys]
        own = [sample.only(sample.scored() < 0) for sample in samples]
        taught = [sample.only(sample.scored() >= 0) for sample in samples]
        rows = [*own, *taught]
        return RawBatch(
            pixels=torch.from_numpy(pixels),
            sizes=torch.tensor([(sample.height, sample.width) for sample in samples]),
            boxes=torch.from_numpy(np.concatenate([sample.boxes for sample in rows])),
            labels=torch.from_numpy(np.concatenate([sample.labels for sample in rows])),
            counts=[len(sample.labels) for sample in own],
            image_ids=tuple(
                cache.image_set.images[key.picture].id
                for cache, key in zip(caches, keys, strict=True)
            ),
            labeled=sum(key.labeled for key in keys),
            scores=torch.from_numpy(np.concatenate([sample.scored() for sample in taught])),
            taught_counts=[len(sample.labels) for sample in taught if cache.taught is not None],
            rows=() if self.views is None else tuple(map(self.views.row, keys)),
        )

    def __getitems__(self, keys: list[Key]) -> RawBatch | ToolkitError:
        """Assemble in a worker process; return an error as a value, without its traceback."""
        try:
            return self.assemble(keys)
        except ToolkitError as error:
            return error

    @cached_property
    def _without_mosaic(self) -> AugmentConfig:
        return self.config.model_copy(update={"mosaic": 0.0})

    def _cache(self, key: Key) -> CanvasCache:
        return self.labeled if key.labeled or self.unlabeled is None else self.unlabeled

    def _sample(self, key: Key) -> Sample:
        cache = self._cache(key)
        fresh = [self.seed, key.epoch, key.picture, 1 + key.labeled]
        rng = np.random.default_rng(fresh if self.views is None else self.views.draw(key))
        count = len(cache.image_set)
        return augment(
            cache.sample(key.picture),
            self.config if key.mosaic else self._without_mosaic,
            rng,
            lambda number: cache.sample(number % count),
            cache.fill,
        )


def steps_per_epoch(data: Data, batch: int) -> int:
    """Return how many whole batches the training pictures make.

    Raises:
        DataError: there are fewer pictures than one batch needs.
    """
    if batch > len(data.train):
        have = counted(len(data.train), "picture")
        raise DataError(
            f"train.batch is {batch}, but {data.train.source} has only {have}; "
            "choose a smaller batch or give more pictures"
        )
    return len(data.train) // batch


def training_batches(
    data: Data,
    *,
    batch: int,
    seed: int,
    start_step: int,
    steps: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    unlabeled_batch: int = 0,
    pin: bool = False,
    device: torch.device | None = None,
    cycle: int | None = None,
    mosaic_until: int | None = None,
    taught: Taught | None = None,
    views: Views | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batches of `steps` steps from `start_step` on.

    Args:
        data: the sets; only `train` and `unlabeled` are used.
        batch: labelled pictures per step, over all ranks.
        seed: seed of order and augmentation.
        start_step: first step; earlier ones cost nothing.
        steps: number of batches to yield.
        rank: rank of this process; it gets the rank-th contiguous slice of each step.
        world: number of processes that share a step.
        workers: processes that prepare batches; 0 uses a thread.
        unlabeled_batch: pictures without labels per step, over all ranks.
        pin: prepare batches in pinned memory, for a GPU.
        device: send pictures there as bytes and convert them there; by default they stay here.
        cycle: go through the batches of the first `cycle` steps over and over, to time steps with
            pictures that are decoded already where the cache holds them.
        mosaic_until: first step without mosaics; None for none.
        taught: what a teacher found on the pictures, for `Batch.taught`; it is changed with them.
        views: take these views of the pictures; None draws new ones in every epoch.

    Raises:
        DataError: a set is smaller than its batch, the batch has fewer pictures than there are
            processes, the teacher's boxes are not those of the sets, or a picture cannot be read.
    """
    steps_per_epoch(data, batch)
    unlabeled = data.unlabeled if unlabeled_batch else None
    if unlabeled_batch and (unlabeled is None or len(unlabeled) < unlabeled_batch):
        raise DataError(
            f"train.unlabeled_batch is {unlabeled_batch}, but data.unlabeled has "
            f"{counted(len(data.unlabeled or ()), 'picture')}; choose a smaller batch or give more "
            "pictures"
        )
    if batch < world:
        raise DataError(
            f"train.batch is {batch}, the pictures of a step over all processes, and {world} "
            f"processes train: some would have none; choose a batch of at least {world}, or start "
            "fewer processes"
        )
    assembler = Assembler(*_caches(data, unlabeled, taught), data.augment, seed, views)
    schedule = Schedule(
        len(data.train),
        batch,
        len(unlabeled or ()),
        unlabeled_batch,
        seed,
        rank,
        world,
        mosaic_until,
    )
    numbers = range(start_step, start_step + steps)
    keys = (schedule.keys(step if cycle is None else step % cycle) for step in numbers)
    pinned = pin and torch.cuda.is_available()
    produce = _by_processes(assembler, keys, workers, pinned) if workers else None
    return _finished(produce or _by_thread(assembler, keys, pinned), device)


def _caches(
    data: Data, unlabeled: ImageSet | None, taught: Taught | None
) -> tuple[CanvasCache, CanvasCache | None]:
    """Return the pictures with labels and those without; the former are kept first."""
    if taught is not None:
        check_taught(taught.train, len(data.train), "data.train")
        if unlabeled is not None:
            check_taught(taught.unlabeled, len(unlabeled), "data.unlabeled")
    of_labeled, of_unlabeled = (None, None) if taught is None else taught
    size, fast = (data.input_height, data.input_width), data.fast_decode
    labeled = CanvasCache(data.train, *size, data.cache_bytes, fast_decode=fast, taught=of_labeled)
    if unlabeled is None:
        return labeled, None
    rest = data.cache_bytes - labeled.bytes
    return labeled, CanvasCache(unlabeled, *size, rest, fast_decode=fast, taught=of_unlabeled)


def view_batches(
    data: Data, views: Views, rows: Sequence[range], *, device: torch.device | None = None
) -> Generator[Batch, None, None]:
    """Yield a batch of each range of rows of `views`; their targets are empty for unlabelled ones.

    Raises:
        DataError: a picture cannot be read.
    """
    unlabeled = data.unlabeled if views.unlabeled.pictures else None
    keys = (list(views.keys(own)) for own in rows)
    assembler = Assembler(*_caches(data, unlabeled, None), data.augment, views.seed, views)
    return _finished(_by_thread(assembler, keys, pin=False), device)


def _finished(
    raws: Iterator[RawBatch], device: torch.device | None
) -> Generator[Batch, None, None]:
    with closing(raws):  # type: ignore[type-var]
        for raw in raws:
            yield to_batch(raw, device)


def _by_thread(assembler: Assembler, keys: Iterator[list[Key]], pin: bool) -> Iterator[RawBatch]:
    pending: deque[Future[RawBatch]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as pool:
        try:
            for key in keys:
                pending.append(pool.submit(assembler.assemble, key))
                if len(pending) > _AHEAD:
                    raw = pending.popleft().result()
                    yield _pinned(raw) if pin else raw
            while pending:
                raw = pending.popleft().result()
                yield _pinned(raw) if pin else raw
        finally:
            for future in pending:
                future.cancel()


def _by_processes(
    assembler: Assembler, keys: Iterator[list[Key]], workers: int, pin: bool
) -> Iterator[RawBatch]:
    if assembler.config.color:
        import torchvision.transforms.v2  # noqa: F401 - here, and not in every forked worker

    loader: DataLoader[RawBatch] = DataLoader(
        assembler,
        batch_sampler=list(keys),
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=pin,
        worker_init_fn=end_with_parent,
    )
    with signals_for_this_process_alone():  # else a worker dies before the last step is taken
        raws = iter(loader)
    for raw in raws:
        if isinstance(raw, ToolkitError):
            raise raw
        yield raw


def _as_it_is(raw: object) -> object:
    return raw


def _pinned(raw: RawBatch) -> RawBatch:
    return raw._replace(
        pixels=raw.pixels.pin_memory(),
        boxes=raw.boxes.pin_memory(),
        labels=raw.labels.pin_memory(),
        scores=raw.scores.pin_memory(),
    )


def to_batch(raw: RawBatch, device: torch.device | None = None) -> Batch:
    """Convert to float32 in 0..1, (B, 3, H, W) with channels last in memory."""
    pixels, sizes, boxes, labels, scores = (
        tensor if device is None else tensor.to(device, non_blocking=True)
        for tensor in (raw.pixels, raw.sizes, raw.boxes, raw.labels, raw.scores)
    )
    # The same division as in export.pictures.images.to_tensor, so that training and device agree.
    images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    counts = raw.counts + raw.taught_counts
    rows = [*zip(torch.split(boxes, counts), torch.split(labels, counts), strict=True)]
    targets = tuple(Targets(*own) for own in rows[: len(raw.counts)])
    of_teacher = zip(rows[len(raw.counts) :], torch.split(scores, raw.taught_counts), strict=True)
    taught = tuple(ScoredBoxes(*found, score) for found, score in of_teacher)
    return Batch(images, targets, sizes, raw.image_ids, raw.labeled, taught, raw.rows)
