"""The teachers of a run: train or load them, and measure them before they teach."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from benchmarks.data.image_set import ImageSet, coco_ground_truth
from benchmarks.timing.step_ratio import TeachingCost
from compress.console import Console
from compress.data.loading import steps_per_epoch
from compress.data.taught import Taught
from compress.data.views import views_of
from compress.detector import BEFOREHAND, Detector, DetectorSpec, Knowledge
from compress.distillation.distiller import Distiller
from compress.distillation.teacher import LiveTeacher, TeacherPrecision
from compress.parts.weights import WeightsReport, load_weights, weights_hash
from compress.recipe import FileTeacher
from compress.stages.fit import (
    evaluate_torch,
    fit,
    torch_manifest,
    unlabeled_in_step,
)
from compress.stages.model_file import describe_model, save_model
from compress.stages.model_name import ModelName
from compress.stages.opened import Run, Teacher
from compress.stages.rundir import TEACHING, once, read_record, read_teaching_costs, reading
from compress.stages.torch_engine import TorchEngine
from compress.teaching.accuracy import accuracy_of
from compress.teaching.beforehand import BoxTeacher, Found, sets_of
from compress.teaching.classes import ClassMatch, match_classes
from compress.teaching.config import OnnxTeacher, PredictionsTeacher
from compress.teaching.formats.graph import Pixels
from compress.teaching.maps.rows import LARGEST
from compress.teaching.maps.stored import (
    Lesson,
    StoredTeacher,
    clamped_values,
    cost_ms,
    fill_store,
    open_store,
)
from compress.teaching.onnx.detector import OnnxDetector, open_detector
from compress.teaching.onnx.finding import find_boxes
from compress.teaching.predictions.reading import read_predictions
from compress.training.seals import check_seal, write_sealed_json
from export.artifact.manifest import file_sha256
from export.atomic import write_json
from export.errors import counted
from export.reading.plain_yaml import dotted

STORES = ".teach"  # in the folder of all runs
FILE_TEACHER = ModelName.of_teacher(0)
FILE_RECORD = "teacher.json"  # in the run's folder: what a teacher that is a file said of itself
SCORE_THRESHOLD, MAX_BOXES = 0.01, 100  # of the boxes that a network finds beforehand
FILES = {"weights", "transfer", "backbone_weights"}  # a network's weights are known by their hash


def teacher_folder(run: Run, teacher: Teacher) -> Path:
    """Train the teacher, or copy its weights from the recipe's file; return its folder."""
    session, config, reports = run.session, teacher.config, list[WeightsReport]()
    name, licences = str(teacher.name), run.licences_behind(teacher.name, {})

    def fresh() -> Distiller:
        detector = teacher.build(run.recipe.seed)
        batch = None if config.train is None else config.train.batch
        loaded = run.begin(
            detector,
            config.detector,
            teacher.data,
            teacher.name,
            batch=batch,
            strict=config.strict,
        )
        reports.extend(loaded)
        return Distiller(detector)

    if config.train is not None:
        seed = run.recipe.seed
        return fit(
            run, teacher.name, fresh, teacher.data, config.train, seed=seed, licences=licences
        )

    def keep(out: Path) -> None:
        """Write a loaded teacher's weights in the form of a trained one's."""
        detector: Detector = fresh().student
        manifest = torch_manifest(detector, teacher.data, run.recipe.export, name, licences)
        metadata = describe_model(config.detector, manifest, run.recipe.resolved())
        save_model(detector.state_dict(), metadata, out / "model.safetensors")
        record = {"name": name, "loaded": True, "rows": [], "steps": 0}
        partial = [report.summary() for report in reports if not report.complete]
        write_json({**record, "loaded_in_part": partial}, out / "training.json")

    folder = run.home / "models" / name
    if session.rank == 0:
        once(folder, keep)
    if session.world > 1:
        session.fabric("32-true").barrier()
    return folder


def load_teacher(run: Run, teacher: Teacher, folder: Path) -> Detector:
    """Build the teacher with the weights in its folder."""
    detector = teacher.build(run.recipe.seed)
    load_weights(detector, folder / "model.safetensors", strict=True, what=str(teacher.name))
    return detector


def store_outputs(
    run: Run, teacher: Teacher, network: Detector, taught: Taught | None = None
) -> StoredTeacher:
    """Pass the pictures' views through the teacher, once, and return what reads the outputs.

    The stores of all runs lie beside them, by the hash of what they were made from; what a store
    has already is kept. The cost is written to `teach.json`.

    Raises:
        ToolkitError: the disk has no room, or the teacher's outputs are not finite.
    """
    session, recipe = run.session, run.recipe
    lesson = lesson_of(run, teacher, network, run.build_student(recipe.seed).spec)
    store = open_store(lesson, session.home.parent / STORES)
    fill_store(lesson, store, session.console, rank=session.rank, world=session.world)
    network.to("cpu")
    if session.world > 1:
        session.fabric("32-true").barrier()
    clamped = clamped_values(store)
    _record_cost(run, str(teacher.name), store.rows, store.bytes, cost_ms(store), clamped)
    if clamped:
        session.console.warn(
            f"teach: {counted(clamped, 'value')} of the {teacher.name}'s outputs were "
            f"beyond {LARGEST:g}, the range of float16, and were clamped"
        )
    return StoredTeacher(store, lesson.teacher.spec, lesson.views, taught)


def _record_cost(run: Run, name: str, views: int, size: int, ms: float, clamped: int = 0) -> None:
    """Write and print what a teacher cost before the training; in the first process only."""
    session, recipe = run.session, run.recipe
    if session.rank != 0:
        return
    pictures = recipe.train.batch + unlabeled_in_step(run.data, recipe.train)
    batches = recipe.train.accumulate * training_steps(run)
    cost = TeachingCost(views=views, bytes=size, ms=ms, passes=pictures * batches, clamped=clamped)
    costs = read_teaching_costs(run.home) | {name: cost}
    record = {one: known.model_dump(mode="json") for one, known in costs.items()}
    write_sealed_json(record, run.home / TEACHING)
    session.console.print(f"{name}: {cost.sentence()}")


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
    detector = OnnxDetector(engine, "network", "", Pixels(), manifest.classes)
    where = dotted(teacher.keys)
    match = match_classes(data.classes, manifest.classes, {}, where)
    key: dict[str, JsonValue] = {
        "teacher": weights_hash(network),
        "detector": teacher.config.detector.model_dump(mode="json", exclude=FILES),
        "manifest": manifest.model_dump(mode="json", exclude={"model", "made_by"}),
    }
    sets = {key: images for key, images in sets_of(data).items() if key != "val"}
    found = _in_first_process(
        run, lambda: _find(run, detector, key, sets, match, SCORE_THRESHOLD, MAX_BOXES)
    )
    _record_cost(run, f"{name}'s boxes", sum(map(len, sets.values())), found.bytes, found.cost_ms)
    return found.taught


def ask_file_teacher(run: Run, config: FileTeacher) -> BoxTeacher:
    """Return the boxes of a teacher that is no network of this package, and measure it on val.

    Raises:
        ToolkitError: its file cannot be read, or fits neither pictures nor classes; see
            `read_predictions` and `open_detector`.
    """
    session, data, sets = run.session, run.data, sets_of(run.data)
    lines: list[str] = []
    if isinstance(config, PredictionsTeacher):
        found, lines = read_file_teacher(run, config)
    else:
        opened, match = open_file_teacher(run, config)
        key: dict[str, JsonValue] = {
            "teacher": file_sha256(config.model),
            "manifest": opened.engine.manifest.model_dump(mode="json", exclude={"model"}),
            "pixels": opened.pixels.model_dump(mode="json"),
            "format": opened.format,
        }
        lines = [*opened.lines(), *match.lines()]
        threshold, most = config.score_threshold, config.max_boxes
        found = _in_first_process(
            run, lambda: _find(run, opened, key, sets, match, threshold, most)
        )
    for line in lines:
        run.print(f"{FILE_TEACHER}: {line}")
    if found.cost_ms:
        pictures = sum(len(sets[name]) for name in found.boxes if name != "val")
        _record_cost(run, str(FILE_TEACHER), pictures, found.bytes, found.cost_ms)
    ap = None
    if "val" in found.boxes:
        ap = accuracy_of(found.boxes["val"], data.val).values["AP"]
    said = "not measured: it has no boxes of the validation pictures"
    if "val" in found.boxes:
        said = f"AP {'n/a' if ap is None else f'{100 * ap:.1f}'} on {data.val.source}"
    run.print(f"{FILE_TEACHER}: {said}")
    if session.rank == 0:
        record = {"type": config.type, "lines": [*lines, said], "ap": ap}
        write_sealed_json(record, run.home / FILE_RECORD)
    student = run.build_student(run.recipe.seed).spec
    return BoxTeacher(config.type, student, found.taught, ap)


def file_teacher_notes(home: Path) -> list[str]:
    """Return what a teacher that is a file said of itself; empty where there is none.

    Raises:
        ToolkitError: the record is damaged.
    """
    path, cure = home / FILE_RECORD, "write it again"
    if not path.exists():
        return []
    check_seal(path, cure)
    with reading(path, path, cure):
        found = json.loads(path.read_text(encoding="utf-8"))
        said = [str(line) for line in found["lines"]]
        return [f"Teacher ({found['type']}): {'; '.join(said)}. It has no row in the table."]


def read_file_teacher(run: Run, config: PredictionsTeacher) -> tuple[Found, list[str]]:
    """Read a file of results and match it with the data; also return what was read, in lines.

    Raises:
        ToolkitError: see `read_predictions`.
    """
    sets = sets_of(run.data)
    read = read_predictions(config, sets, run.source.at("teacher"))
    boxes = dict(read.taught)
    warnings = list(read.warnings)
    if not len(boxes["val"].scores):  # the teacher was not run on them, which is no fault
        del boxes["val"]
        warnings = [line for line in warnings if " of val have no box " not in line]
    for line in warnings:
        run.session.console.warn(f"{FILE_TEACHER}: {line}")
    return Found(boxes), list(read.lines)


def open_file_teacher(run: Run, config: OnnxTeacher) -> tuple[OnnxDetector, ClassMatch]:
    """Open the ONNX file of a teacher and match its classes.

    Raises:
        ToolkitError: see `open_detector` and `match_classes`.
    """
    where = run.source.at("teacher")
    device: Literal["cpu", "cuda"] = "cuda" if run.session.torch_device().type == "cuda" else "cpu"
    opened = open_detector(config, device, where)
    return opened, match_classes(run.data.classes, opened.classes, config.class_map, where)


def _find(
    run: Run,
    detector: OnnxDetector,
    key: Mapping[str, JsonValue],
    sets: Mapping[str, ImageSet],
    match: ClassMatch,
    score_threshold: float,
    max_boxes: int,
) -> Found:
    return find_boxes(
        detector,
        key,
        sets,
        match,
        score_threshold=score_threshold,
        max_boxes=max_boxes,
        home=run.home.parent / STORES,
        console=run.session.console,
    )


def _in_first_process(run: Run, find: Callable[[], Found]) -> Found:
    """Let the first process find and keep the boxes; the others read them afterwards."""
    session = run.session
    if session.world == 1:
        return find()
    found = find() if session.rank == 0 else None
    session.fabric("32-true").barrier()
    return find() if found is None else found


def lesson_of(run: Run, teacher: Teacher, network: Detector, student: DetectorSpec) -> Lesson:
    """Return what `store_outputs` asks a teacher."""
    recipe, data, config = run.recipe, run.data, run.recipe.train
    precision: TeacherPrecision = "bf16" if teacher.config.precision == "bf16" else "fp32"
    live = LiveTeacher(network, student, precision)
    total = training_steps(run)
    assert recipe.teach is not None
    views = views_of(
        data,
        batch=config.batch,
        unlabeled_batch=unlabeled_in_step(data, config),
        steps=total * config.accumulate,
        mosaic_until=data.augment.mosaic_steps(total) * config.accumulate,
        most=recipe.teach.views,
        seed=recipe.seed,
    )
    nothing: frozenset[Knowledge] = frozenset()
    wanted = nothing.union(*(loss.teacher_needs(student, live.spec) for loss in recipe.distill))
    settings = teacher.config.detector.model_dump(mode="json", exclude=FILES)
    return Lesson(live, settings, data, views, wanted - BEFOREHAND, run.session.torch_device())


def training_steps(run: Run) -> int:
    """Return the optimiser steps of one training of the student, if it is not stopped early."""
    config = run.recipe.train
    return config.total_steps(steps_per_epoch(run.data, config.batch))


def measure_teacher(run: Run, teacher: Teacher, detector: Detector) -> float | None:
    """Measure and print the teacher's AP on the student's validation split."""
    session, data = run.session, run.data
    manifest = torch_manifest(detector, data, run.recipe.export, "teacher")
    metrics = evaluate_torch(session, detector, manifest, data, coco_ground_truth(data.val))
    ap = metrics.values["AP"]
    session.console.print(
        f"{teacher.name}: AP {'n/a' if ap is None else f'{100 * ap:.1f}'} on {data.val.source}"
    )
    unknown = [name for name in data.classes if name not in teacher.classes]
    if unknown:
        session.console.warn(
            f"{teacher.name} does not know {', '.join(unknown)}: its AP counts them as missed, and "
            "only its features can be distilled"
        )
    return ap


def warn_of_a_weak_teacher(
    console: Console, name: ModelName, teacher_ap: float | None, baseline: Path
) -> None:
    """Warn of a teacher whose AP is not above that of the student trained without it."""
    alone = read_record(baseline).last_ap
    if teacher_ap is not None and alone is not None and teacher_ap <= alone:
        console.warn(
            f"the {name} (AP {100 * teacher_ap:.1f}) is not above the student trained "
            f"without it ({100 * alone:.1f}); distillation from it is unlikely to help. Train the "
            "teacher longer or on more data, or use a larger one"
        )
