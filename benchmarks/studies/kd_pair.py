"""Inputs and records of `benchmarks.studies.kd_step`: two detectors, a batch of noise, a table."""

import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import JsonValue
from torch import nn
from typing_extensions import TypedDict

from compress.batch import Batch, ScoredBoxes, Targets, full_size
from compress.data.views import SetViews, Views
from compress.detector import BEFOREHAND, Detector
from compress.detectors.small_pairs import NAMED, detector_settings
from compress.distillation.teacher import LiveTeacher, Teaching
from compress.losses.parts.loss import LossSection
from compress.teaching.maps.rows import as_rows, constants
from compress.teaching.maps.store import Store, source_hash
from compress.teaching.maps.stored import StoredTeacher, check_stored
from compress.training.precision import resolve_precision

NUM_CLASSES = 20
BOXES_PER_PICTURE = 6
STUDENT, TEACHER = "resnet18", "resnet50"


class Setting(NamedTuple):
    """A detector family with the size of its pictures and batches."""

    pair: str
    size: int
    batch: int
    device: str
    half: torch.dtype | None = None  # arithmetic of autocast; None: fp32


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
    """A step in another framework.

    `over_plain` compares it with our plain step, `over_own_plain` with the framework's, and
    `over_mse` with our mean squared error.
    """

    over_plain: float
    over_own_plain: float | None
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
    source: Teaching | None = None  # of what is learned, in place of the teacher as it is


def with_store(pair: Pair, config: LossSection, folder: Path) -> Pair | None:
    """Return the pair with the teacher's outputs on the batch read from a store in `folder`.

    None for a method that needs the teacher's network in every step, or no outputs of it at all.
    """
    student, teacher, batch = pair[:3]
    wanted = config.teacher_needs(student.spec, teacher.spec) - BEFOREHAND
    if not wanted or check_stored(student.spec, teacher.spec, [config]):
        return None
    live = pair.source or LiveTeacher(teacher, student.spec)
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
    return pair._replace(batch=batch._replace(rows=tuple(range(count))), source=stored)


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
    """Build both detectors and a batch, as a run has them; equal for equal settings."""
    torch.manual_seed(0)
    student, teacher = build(STUDENT, setting), build(TEACHER, setting)
    for network in (student, teacher):
        network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-6, momentum=0.9)
    live = LiveTeacher(teacher, student.spec, size=(setting.size, setting.size))
    return Pair(student, teacher, make_batch(setting), optimizer, live)


def chosen_arithmetic(setting: Setting, amp: str) -> tuple[Setting, str]:
    """Return the setting with the arithmetic that a run would choose, and the reason in words."""
    student, side = build(STUDENT, setting), setting.size
    assert isinstance(student.backbone, nn.Module)
    backbone, device = student.backbone, torch.device(setting.device)
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "precision.json"
        chosen, why = resolve_precision(
            amp, device, lambda: backbone, record, (side, side), batch=setting.batch
        )
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(chosen)
    return setting._replace(half=half), why


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
        images=images.contiguous(memory_format=torch.channels_last),
        targets=tuple(targets),
        sizes=full_size(images),
        image_ids=tuple(range(setting.batch)),
        labeled=setting.batch,
        taught=tuple(ScoredBoxes(*own, torch.full((BOXES_PER_PICTURE,), 0.8)) for own in targets),
    ).to(torch.device(setting.device))


def table(setting: Setting, rounds: int, result: PairRecord) -> str:
    """Return the result as a table of text."""
    lines = [
        f"{setting.pair} {TEACHER} -> {STUDENT}, {setting.size} px, batch {setting.batch}, "
        f"{setting.device}, {torch.get_num_threads()} threads, median of {rounds} rounds",
        f"{'step':<28}{'floor ms':>10}{'ms':>10}{'/ floor':>9}{'/ plain':>9}{'stored':>9}"
        f"{'floor MiB':>11}{'MiB':>8}",
    ]

    def line(
        name: str,
        step: StepRecord,
        over_plain: float | None = None,
        over_floor: float | None = None,
        floor: StepRecord | None = None,
        stored: float | None = None,
    ) -> str:
        cells = (
            (None if floor is None else floor["ms"], 10, ".1f"),
            (step["ms"], 10, ".1f"),
            (over_floor, 9, ".2f"),
            (over_plain, 9, ".2f"),
            (stored, 9, ".2f"),
            (None if floor is None else floor["peak_mib"], 11, "d"),
            (step["peak_mib"], 8, "d"),
        )
        return f"{name:<28}" + "".join(
            f"{'' if value is None else format(value, form):>{width}}"
            for value, width, form in cells
        )

    lines.append(line("plain", result["plain"]))
    lines += [
        line(
            name,
            step,
            step["over_plain"],
            step["over_floor"],
            step["floor"],
            step["stored_over_plain"],
        )
        for name, step in result["methods"].items()
    ]
    lines += [line(name, step, step["over_plain"]) for name, step in result["peers"].items()]
    lines += [f"skipped {name}: {why}" for name, why in result["skipped"].items()]
    return "\n".join(lines)
