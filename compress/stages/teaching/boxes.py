"""The boxes of a teacher on the training pictures, found once."""

from collections.abc import Mapping, Sequence
from functools import partial

from pydantic import JsonValue

from benchmarks.data.image_set import ImageSet
from compress.data.taught import Taught
from compress.detector import BEFOREHAND, Detector
from compress.parts.weights import weights_hash
from compress.recipe import FileTeacher
from compress.stages.fit import torch_manifest
from compress.stages.opened import Run, Teacher
from compress.stages.teaching.costs import FILES, STORES, record_cost, record_file_teacher
from compress.stages.teaching.files import FILE_TEACHER, open_file_teacher, read_file_teacher
from compress.stages.torch_engine import TorchEngine
from compress.teaching.accuracy import accuracy_of
from compress.teaching.beforehand import BoxTeacher, Found, sets_of
from compress.teaching.boxes import BoxLimits
from compress.teaching.classes import ClassMatch, match_classes
from compress.teaching.config import PredictionsTeacher
from compress.teaching.formats.graph import Pixels
from compress.teaching.onnx.content import content_sha256
from compress.teaching.onnx.detector import BoxDetector
from compress.teaching.onnx.finding import find_boxes


def compares_boxes(run: Run, teachers: Sequence[tuple[Teacher, Detector]]) -> bool:
    """Whether a loss compares boxes that the networks find before the training."""
    student = run.build_student(run.recipe.seed).spec
    return any(
        not loss.teacher_needs(student, network.spec).isdisjoint(BEFOREHAND)
        for loss in run.recipe.distill
        for _, network in teachers
    )


def found_by_network(run: Run, teacher: Teacher, network: Detector) -> Taught:
    """Return the boxes that a network finds on the training pictures; found once, then kept.

    Raises:
        RecipeError: none of its classes is one of the student's.
        ToolkitError: the disk has no room.
    """
    session, data, name = run.session, run.data, str(teacher.name)
    manifest = torch_manifest(network, data, run.recipe.export, name)
    engine = TorchEngine(network, manifest, session.torch_device())
    detector = BoxDetector(engine, "network", "", Pixels(), manifest.classes)
    at = partial(run.source.at, *teacher.keys)
    match = match_classes(data.classes, manifest.classes, {}, at)
    key: dict[str, JsonValue] = {
        "teacher": weights_hash(network),
        "detector": teacher.config.detector.model_dump(mode="json", exclude=FILES),
        "manifest": manifest.model_dump(mode="json", exclude={"model", "made_by"}),
    }
    sets = {of_set: images for of_set, images in sets_of(data).items() if of_set != "val"}
    found = _find(run, detector, key, sets, match, BoxLimits())
    record_cost(run, f"{name}'s boxes", sum(map(len, sets.values())), found.bytes, found.cost_ms)
    return found.taught


def ask_file_teacher(run: Run, config: FileTeacher) -> BoxTeacher:
    """Return the boxes of a teacher that is no network of this package, and measure it on val.

    Raises:
        ToolkitError: its file cannot be read, or fits neither pictures nor classes; see
            `read_predictions` and `open_detector`.
    """
    data, sets = run.data, sets_of(run.data)
    lines: list[str] = []
    if isinstance(config, PredictionsTeacher):
        found, lines = read_file_teacher(run, config)
    else:
        opened, match = open_file_teacher(run, config)
        key: dict[str, JsonValue] = {
            "teacher": content_sha256(config.model),
            "manifest": opened.engine.manifest.model_dump(mode="json", exclude={"model"}),
            "pixels": opened.pixels.model_dump(mode="json"),
            "format": opened.format,
        }
        lines = [*opened.lines(), *match.lines()]
        found = _find(run, opened, key, sets, match, config.limits)
    if found.cost_ms:
        pictures = sum(len(sets[name]) for name in found.boxes if name != "val")
        record_cost(run, str(FILE_TEACHER), pictures, found.bytes, found.cost_ms)
    ap, said = None, "not measured: it has no boxes of the validation pictures"
    if "val" in found.boxes:
        ap = accuracy_of(found.boxes["val"], data.val).values["AP"]
        said = f"AP {'n/a' if ap is None else f'{100 * ap:.1f}'} on {data.val.source}"
    record_file_teacher(run, config.type, [*lines, said], ap)
    student = run.build_student(run.recipe.seed).spec
    return BoxTeacher(config.type, student, found.taught, ap)


def _find(
    run: Run,
    detector: BoxDetector,
    key: Mapping[str, JsonValue],
    sets: Mapping[str, ImageSet],
    match: ClassMatch,
    limits: BoxLimits,
) -> Found:
    """Let the first process find and keep the boxes; the others read them afterwards."""
    session = run.session
    if session.rank != 0:
        session.fabric("32-true").barrier()
    found = find_boxes(
        detector,
        key,
        sets,
        match,
        limits,
        home=run.home.parent / STORES,
        console=session.console,
    )
    if session.rank == 0 and session.world > 1:
        session.fabric("32-true").barrier()
    return found
