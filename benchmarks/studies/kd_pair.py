"""Inputs and records of `benchmarks.studies.kd_step`: two detectors, a batch of noise."""

from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import JsonValue
from typing_extensions import TypedDict

from compress.batch import Batch, ScoredBoxes, Targets, full_size
from compress.data.views import SetViews, Views
from compress.detector import BEFOREHAND, Detector
from compress.detectors.small_pairs import NAMED, detector_settings
from compress.distillation.teacher import LiveTeacher
from compress.losses.parts.loss import LossSection
from compress.teaching.maps.rows import as_rows, constants
from compress.teaching.maps.store import Store, source_hash
from compress.teaching.maps.stored import StoredTeacher, check_stored

NUM_CLASSES = 20
BOXES_PER_PICTURE = 6
STUDENT, TEACHER = "resnet18", "resnet50"


class Setting(NamedTuple):
    """A detector family with the size of its pictures and batches."""

    pair: str
    size: int
    batch: int
    device: str


class StepRecord(TypedDict):
    """Median time of a step, and the peak memory of a process that runs only this step."""

    ms: float
    peak_mib: int | None


class MethodRecord(StepRecord):
    """A distilled step, its ratios to its floor and to the plain step, and both from a store."""

    needs: list[str]
    settings: dict[str, JsonValue]
    floor: StepRecord
    over_floor: float
    over_plain: float
    stored_ms: float | None
    stored_over_plain: float | None


class PeerRecord(StepRecord):
    """A step in another framework; `over_mse` compares it with our mean squared error."""

    over_plain: float
    over_mse: float | None


class PairRecord(TypedDict):
    """All steps of one pair; `skipped` holds the reason per method that does not fit it."""

    plain: StepRecord
    methods: dict[str, MethodRecord]
    skipped: dict[str, str]
    peers: dict[str, PeerRecord]


class Stored(TypedDict):
    """The step with outputs from a store; None where the method needs the network."""

    stored_ms: float | None
    stored_over_plain: float | None


class Pair(NamedTuple):
    """Two detectors, a batch, and the optimiser that all steps share."""

    student: Detector
    teacher: Detector
    batch: Batch
    optimizer: torch.optim.Optimizer
    stored: StoredTeacher | None = None  # in place of the teacher


def with_store(pair: Pair, config: LossSection, folder: Path) -> Pair | None:
    """Return the pair with the teacher's outputs on the batch read from a store in `folder`.

    None for a method that needs the teacher's network in every step, or no outputs of it at all.
    """
    student, teacher, batch = pair[:3]
    wanted = config.teacher_needs(student.spec, teacher.spec) - BEFOREHAND
    if not wanted or check_stored(student.spec, teacher.spec, [config]):
        return None
    live = LiveTeacher(teacher, student.spec)
    outputs = live.outputs(batch, wanted)
    rows, count = as_rows(outputs, wanted), len(batch.images)
    sample = {name: value[:1] for name, value in rows.items()}
    store = Store(folder, count, sample, lambda rows: source_hash(list(rows)))
    store.fix(constants(outputs, wanted))
    for part in store.parts:
        own = store.rows_of(part)
        store.write(part, {name: v[own.start : own.stop].clone() for name, v in rows.items()}, 0, 0)
    sets = SetViews(count, 1)
    stored = StoredTeacher(store, live.spec, Views(0, sets, SetViews(0, 1)))
    return pair._replace(batch=batch._replace(rows=tuple(range(count))), stored=stored)


def build(backbone: str, setting: Setting) -> Detector:
    """Build a detector with random weights; of named models, one of the two smallest."""
    settings = {"type": setting.pair, "backbone": backbone}
    if setting.pair in NAMED:
        student, teacher = NAMED[setting.pair]
        named = student if backbone == STUDENT else teacher
        settings = {"type": setting.pair, "model": named}
    config = detector_settings()[setting.pair].model_validate(settings)
    return config.build(NUM_CLASSES, (setting.size, setting.size)).to(setting.device)


def make_pair(setting: Setting) -> Pair:
    """Build both detectors and a batch; equal for equal settings."""
    torch.manual_seed(0)
    student, teacher = build(STUDENT, setting), build(TEACHER, setting)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-6, momentum=0.9)
    return Pair(student, teacher.eval().requires_grad_(False), make_batch(setting), optimizer)


def make_batch(setting: Setting) -> Batch:
    """Draw noise with boxes on it; a tenth to half of the picture wide and high.

    The batch also holds them as boxes that a teacher found.
    """
    images = torch.rand(setting.batch, 3, setting.size, setting.size)
    targets = []
    for _ in range(setting.batch):
        sides = (0.1 + 0.4 * torch.rand(BOXES_PER_PICTURE, 2)) * setting.size
        corners = torch.rand(BOXES_PER_PICTURE, 2) * (setting.size - sides)
        labels = torch.randint(0, NUM_CLASSES, (BOXES_PER_PICTURE,))
        targets.append(Targets(torch.cat([corners, corners + sides], dim=1), labels))
    return Batch(
        images=images,
        targets=tuple(targets),
        sizes=full_size(images),
        image_ids=tuple(range(setting.batch)),
        labeled=setting.batch,
        taught=tuple(ScoredBoxes(*own, torch.full((BOXES_PER_PICTURE,), 0.8)) for own in targets),
    ).to(torch.device(setting.device))
