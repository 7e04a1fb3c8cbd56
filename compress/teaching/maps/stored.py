"""A teacher whose outputs were computed before, and the pass that computes them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from pydantic import JsonValue

from compress.batch import Batch, full_size, no_targets
from compress.console import Console
from compress.data.config import Data
from compress.data.loading import view_batches
from compress.data.taught import Taught
from compress.data.views import Views
from compress.detector import BEFOREHAND, DetectorSpec, Knowledge, Outputs, Rois
from compress.distillation.teacher import LiveTeacher, Teaching
from compress.losses.parts.loss import LossSection
from compress.parts.weights import weights_hash
from compress.teaching.maps.rows import (
    STORABLE,
    Rows,
    as_outputs,
    as_rows,
    constants,
    is_part_of,
    out_of_range,
)
from compress.teaching.maps.store import (
    Store,
    cost_clock,
    identities,
    in_words,
    row_bytes,
    source_hash,
)
from export.errors import ToolkitError, counted

SCHEMA = 1
BATCH = 16  # pictures that the teacher passes at once, at most
BATCH_BYTES = 256 * 2**20  # of their outputs


@dataclass(frozen=True)
class Lesson:
    """A request to a teacher: its outputs on all views, computed once before the training.

    Attributes:
        teacher: the network, in the student's classes, computing in float32 or bfloat16.
        settings: those that the network was built from, as plain values.
        data: the pictures.
        views: fixed views of the pictures.
        wanted: what the losses compare.
        device: device of the forward pass.
    """

    teacher: LiveTeacher
    settings: JsonValue
    data: Data
    views: Views
    wanted: frozenset[Knowledge]
    device: torch.device

    def key(self) -> dict[str, JsonValue]:
        """Return everything that the stored values depend on, but for the pictures."""
        data, spec = self.data, self.teacher.spec
        return {
            "schema": SCHEMA,
            "teacher": weights_hash(self.teacher.network),
            "detector": self.settings,
            "classes": list(spec.classes),
            "precision": self.teacher.precision,
            "image_size": [data.input_height, data.input_width],
            "fast_decode": data.fast_decode,
            "augment": data.augment.model_dump(mode="json"),
            "views": _plain(asdict(self.views)),
            "outputs": list[JsonValue](sorted(self.wanted)),
        }

    def sources(self) -> Callable[[range], str]:
        """Return the function from rows to the hash of the pictures behind them; reads all files.

        A mosaic takes parts of other pictures of its set, so it depends on all of them.
        """
        unlabeled = self.data.unlabeled if self.views.unlabeled.pictures else None
        known = {
            True: identities(self.data.train),
            False: [] if unlabeled is None else identities(unlabeled),
        }
        whole = source_hash([*known[True], *known[False]]) if self.data.augment.mosaic else ""

        def source(rows: range) -> str:
            own = [known[key.labeled][key.picture] for key in self.views.keys(rows)]
            return source_hash([whole, *own])

        return source

    @cached_property
    @torch.inference_mode()
    def sample(self) -> tuple[Rows, Rows]:
        """The row of a grey picture, and what is the same for all pictures."""
        size = (self.data.input_height, self.data.input_width)
        images = torch.full((1, 3, *size), 0.5, device=self.device)
        for network in self.teacher.frozen:
            network.to(self.device)
        batch = Batch(images, (no_targets(self.device),), full_size(images), (0,), 0)
        outputs = self.teacher.outputs(batch, self.wanted)
        return as_rows(outputs, self.wanted), constants(outputs, self.wanted)

    def row_bytes(self) -> int:
        """Return the bytes that one view takes on disk."""
        return row_bytes(self.sample[0])


class StoredTeacher(Teaching):
    """Outputs from a store; nothing runs.

    Attributes:
        store: where they lie.
    """

    views: Views

    def __init__(
        self, store: Store, spec: DetectorSpec, views: Views, taught: Taught | None = None
    ) -> None:
        self.store, self.views, self.taught = store, views, taught
        self.spec = stored_spec(spec)

    def outputs(
        self, batch: Batch, wanted: frozenset[Knowledge], rois: Rois | None = None
    ) -> Outputs:
        """See `Teaching.outputs`."""
        assert rois is None
        assert wanted <= self.spec.provides
        rows = self.store.read(batch.rows, lambda name: is_part_of(name, wanted))
        fixed, device = self.store.fixed(), batch.images.device
        if device.type != "cpu":
            rows, fixed = _moved(rows, device), _moved(fixed, device)
        return as_outputs(rows, fixed)


def stored_spec(spec: DetectorSpec) -> DetectorSpec:
    """Return what a teacher of this spec provides from a store."""
    return replace(spec, provides=spec.provides & STORABLE)


def check_stored(
    student: DetectorSpec, teacher: DetectorSpec, losses: Sequence[LossSection]
) -> list[tuple[int, str]]:
    """Return why these losses cannot learn from a store: (index of the loss, message)."""
    problems = []
    if all(loss.teacher_needs(student, teacher) <= BEFOREHAND for loss in losses):
        problems.append(
            (
                0,
                f"{losses[0].type} learns from boxes, which are found once in any case; remove "
                "teach",
            )
        )
    for index, loss in enumerate(losses):
        missing = loss.teacher_needs(student, teacher) - STORABLE - BEFOREHAND
        if missing:
            problems.append(
                (
                    index,
                    f"{loss.type} compares {', '.join(sorted(missing))}, which cannot be stored, "
                    "as they depend on more than the picture; remove teach, or this loss",
                )
            )
        elif loss.own_images:
            problems.append(
                (
                    index,
                    f"{loss.type} passes images of its own through the teacher, so it needs one in "
                    "every step; remove teach, or this loss",
                )
            )
    return problems


def open_store(lesson: Lesson, home: Path) -> Store:
    """Return the store of a lesson in the folder `home` of all stores; its parts may be missing."""
    folder = home / source_hash(lesson.key())[:16]
    return Store(folder, lesson.views.rows, lesson.sample[0], lesson.sources())


def fill_store(
    lesson: Lesson, store: Store, console: Console, *, rank: int = 0, world: int = 1
) -> None:
    """Compute the parts of the store that are missing, stale or damaged; keep the others.

    With several processes each one computes its share of the parts.

    Raises:
        ToolkitError: the disk has no room, or the teacher's outputs are not finite.
        DataError: a picture cannot be read.
    """
    missing = store.missing()
    # by number, since another process may have written a part before this one looked for it
    own = [part for part in missing if part % world == rank]
    kept = len(store.parts) - len(missing)
    console.print(
        f"teach: {counted(store.rows, 'view')} of "
        f"{counted(lesson.views.labeled.pictures + lesson.views.unlabeled.pictures, 'picture')}, "
        f"{in_words(store.bytes)} in {store.folder} ({in_words(store.row_bytes)} a view)"
        + (f", {kept} of {len(store.parts)} parts kept" if kept else "")
    )
    if rank == 0:
        store.fix(lesson.sample[1])
    if not missing:
        return
    store.require_space(missing)
    if rank == 0:
        store.describe({**lesson.key(), "rows": store.rows, "rows_per_part": store.size})
    done = store.rows - sum(len(store.rows_of(part)) for part in missing)
    with console.progress("teach", store.rows, done) as bar:
        for part, rows, cost, clamped in _computed(lesson, store, own):
            store.write(part, rows, cost, clamped)
            done += len(store.rows_of(part)) * world
            bar.update(min(done, store.rows))


def cost_ms(store: Store) -> float:
    """Return what making the whole store cost: processor time on a CPU, else time."""
    return sum(record.cost_ms for record in store.records())


def clamped_values(store: Store) -> int:
    """Return how many values were beyond the range of float16."""
    return sum(record.clamped for record in store.records())


def _computed(
    lesson: Lesson, store: Store, parts: Sequence[int]
) -> Iterator[tuple[int, Rows, float, int]]:
    """Yield the rows of each part, what they cost, and how many values were clamped."""
    most = max(1, min(BATCH, BATCH_BYTES // max(1, store.row_bytes)))
    cuts = {part: list(_cut(store.rows_of(part), most)) for part in parts}
    stream = view_batches(
        lesson.data, lesson.views, list(chain.from_iterable(cuts.values())), device=lesson.device
    )
    with closing(stream) as batches:
        for part, pieces in cuts.items():
            began, found = cost_clock(lesson.device.type), list[Rows]()
            for _ in pieces:
                batch = next(batches).to(lesson.device)
                rows = as_rows(lesson.teacher.outputs(batch, lesson.wanted), lesson.wanted)
                _require_finite(rows, batch)
                found.append(rows)
            whole = {name: torch.cat([rows[name] for rows in found]) for name in found[0]}
            yield part, whole, cost_clock(lesson.device.type) - began, out_of_range(whole)


def _cut(rows: range, most: int) -> Iterator[range]:
    for first in range(rows.start, rows.stop, most):
        yield range(first, min(rows.stop, first + most))


def _require_finite(rows: Rows, batch: Batch) -> None:
    for name, value in rows.items():
        finite = value.isfinite().flatten(1).all(dim=1)
        if not bool(finite.all()):
            first = batch.image_ids[int((~finite).nonzero()[0])]
            raise ToolkitError(
                f"teach: the teacher's {name} of picture {first} is not finite, so nothing can be "
                "learned from it; check the teacher's weights, or set its precision: fp32"
            )


def _moved(rows: Rows, device: torch.device) -> Rows:
    return {name: value.to(device, non_blocking=True) for name, value in rows.items()}


def _plain(values: dict[str, object]) -> JsonValue:
    return {name: _plain(v) if isinstance(v, dict) else v for name, v in values.items()}  # type: ignore[misc]
