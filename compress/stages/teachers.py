"""The teachers of a run: train or load them, and measure them before they teach."""

from pathlib import Path

from benchmarks.data.image_set import coco_ground_truth
from benchmarks.timing.step_ratio import TeachingCost
from compress.console import Console
from compress.data.loading import steps_per_epoch
from compress.data.views import views_of
from compress.detector import BEFOREHAND, Detector, DetectorSpec, Knowledge
from compress.distillation.distiller import Distiller
from compress.distillation.teacher import LiveTeacher, TeacherPrecision
from compress.parts.weights import WeightsReport, load_weights
from compress.stages.fit import (
    evaluate_torch,
    fit,
    torch_manifest,
    unlabeled_in_step,
)
from compress.stages.model_file import describe_model, save_model
from compress.stages.model_name import ModelName
from compress.stages.opened import Run, Teacher
from compress.stages.rundir import TEACHING, once, read_record, read_teaching_costs
from compress.teaching.maps.rows import LARGEST
from compress.teaching.maps.stored import (
    Lesson,
    StoredTeacher,
    clamped_values,
    cost_ms,
    fill_store,
    open_store,
)
from compress.training.seals import write_sealed_json
from export.atomic import write_json
from export.errors import counted

STORES = ".teach"  # in the folder of all runs
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


def store_outputs(run: Run, teacher: Teacher, network: Detector) -> StoredTeacher:
    """Pass the pictures' views through the teacher, once, and return what reads the outputs.

    The stores of all runs lie beside them, by the hash of what they were made from; what a store
    has already is kept. The cost is written to `teach.json`.

    Raises:
        ToolkitError: the disk has no room, or the teacher's outputs are not finite.
    """
    session, recipe, data = run.session, run.recipe, run.data
    lesson = lesson_of(run, teacher, network, run.build_student(recipe.seed).spec)
    store = open_store(lesson, session.home.parent / STORES)
    fill_store(lesson, store, session.console, rank=session.rank, world=session.world)
    network.to("cpu")
    if session.world > 1:
        session.fabric("32-true").barrier()
    if session.rank == 0:
        pictures = recipe.train.batch + unlabeled_in_step(data, recipe.train)
        batches = recipe.train.accumulate * training_steps(run)
        cost = TeachingCost(
            views=store.rows,
            bytes=store.bytes,
            ms=cost_ms(store),
            passes=pictures * batches,
            clamped=clamped_values(store),
        )
        costs = read_teaching_costs(run.home) | {str(teacher.name): cost}
        record = {name: one.model_dump(mode="json") for name, one in costs.items()}
        write_sealed_json(record, run.home / TEACHING)
        session.console.print(f"teach: {cost.sentence()}")
        if cost.clamped:
            session.console.warn(
                f"teach: {counted(cost.clamped, 'value')} of the {teacher.name}'s outputs were "
                f"beyond {LARGEST:g}, the range of float16, and were clamped"
            )
    return StoredTeacher(store, lesson.teacher.spec, lesson.views)


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
