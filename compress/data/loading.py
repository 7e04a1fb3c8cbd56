"""Batches for training, reproducible at any step of a resumed or distributed run.

Which pictures a step sees, and how each is changed, depends on (seed, step) alone: not on the
number of worker processes, on earlier steps, or on the rank, which only takes its slice.
"""

import mmap
import multiprocessing
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.data.image_set import ImageSet, read_canvas
from compress.batch import Batch, ScoredBoxes, Targets
from compress.data.augment import OF_LABELS, AugmentConfig, Sample, augment
from compress.data.config import Data
from compress.data.schedule import Key, Schedule
from compress.data.taught import Taught, TaughtPictures, check_taught
from compress.data.workers import end_with_parent
from export.arguments import signals_for_this_process_alone
from export.errors import DataError, ToolkitError, counted
from export.pictures.images import Letterbox, fit

_AHEAD = 3  # batches prepared before they are asked for
_FILL = 114


class CanvasCache:
    """Letterboxed pictures of one set; the first of them, as many as fit, are decoded once.

    Processes that are forked from this one fill and read the same memory. An anonymous map is
    used rather than `/dev/shm`, which containers keep small.

    Attributes:
        bytes: memory of the kept pictures.
    """

    def __init__(
        self,
        image_set: ImageSet,
        height: int,
        width: int,
        budget_bytes: int,
        fill: int = _FILL,
        *,
        fast_decode: bool = False,
        taught: TaughtPictures | None = None,
    ) -> None:
        self.image_set, self.taught = image_set, taught
        self.height, self.width, self.fill = height, width, fill
        self.fast_decode = fast_decode
        each = height * width * 3
        self._kept = min(len(image_set), budget_bytes // each)
        self.bytes = self._kept * each
        memory = _shared_bytes(self.bytes + self._kept + 1)  # mapping 0 bytes is an error
        self._canvases = memory[: self.bytes].view(self._kept, height, width, 3)
        self._filled = memory[self.bytes :]

    def place(self, index: int) -> Letterbox:
        """Return where picture `index` lies in its canvas."""
        image = self.image_set.images[index]
        return fit(image.width, image.height, self.height, self.width)

    def canvas(self, index: int) -> NDArray[np.uint8]:
        """Return the (H, W, 3) uint8 canvas of picture `index`; not to be written to.

        Raises:
            DataError: the picture cannot be read.
        """
        if index >= self._kept:
            return self._read(index)
        kept: NDArray[np.uint8] = self._canvases[index].numpy()
        if not self._filled[index]:
            kept[:] = self._read(index)
            self._filled[index] = 1  # last, so that no process sees half a picture
        return kept

    def sample(self, index: int) -> Sample:
        """Return picture `index` with its boxes in input pixels; crowd boxes are left out.

        What a teacher found on it follows the set's own boxes.
        """
        image, place = self.image_set.images[index], self.place(index)
        alone = ~image.crowd
        boxes, labels, scores = image.boxes[alone], image.labels[alone], None
        if self.taught is not None:
            found = self.taught.of(index)
            scores = np.concatenate(
                [np.full(len(labels), OF_LABELS, np.float32), found.scores.numpy()]
            )
            boxes = np.concatenate([boxes, found.boxes.numpy()])
            labels = np.concatenate([labels, found.labels.numpy()])
        limits = np.array([place.width, place.height] * 2, dtype=np.float32)
        inside = np.clip(place.to_input(boxes), 0, limits)
        return Sample(self.canvas(index), inside, labels, place.height, place.width, scores)

    def _read(self, index: int) -> NDArray[np.uint8]:
        return read_canvas(
            self.image_set,
            index,
            self.height,
            self.width,
            self.fill,
            fast_decode=self.fast_decode,
        )[0]


def _shared_bytes(count: int) -> Tensor:
    """Return zeroed bytes that child processes share."""
    if multiprocessing.get_start_method() == "fork":
        return torch.frombuffer(mmap.mmap(-1, count), dtype=torch.uint8)
    shared: Tensor = torch.zeros(count, dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
    return shared


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


@dataclass(frozen=True)
class Assembler(Dataset[RawBatch]):
    """Turns the keys of one step into a batch; runs in a thread or in worker processes."""

    labeled: CanvasCache
    unlabeled: CanvasCache | None
    config: AugmentConfig
    seed: int

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
        rng = np.random.default_rng([self.seed, key.epoch, key.picture, 1 + key.labeled])
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
    assembler = Assembler(*_caches(data, unlabeled, taught), data.augment, seed)
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
    return Batch(images, targets, sizes, raw.image_ids, raw.labeled, taught)
