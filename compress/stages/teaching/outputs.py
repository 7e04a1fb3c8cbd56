"""The outputs of a teacher's network on fixed views of the pictures, stored once."""

from typing import TypeAlias

from pydantic import JsonValue

from compress.data.taught import Taught
from compress.data.views import views_of
from compress.detector import BEFOREHAND, Detector, DetectorSpec, Knowledge
from compress.distillation.teacher import LiveTeacher, TeacherPrecision
from compress.stages.model_name import ModelName
from compress.stages.opened import Run, Teacher, pictures_in_step
from compress.stages.teaching.costs import FILES, STORES, record_cost, training_steps
from compress.stages.teaching.files import FILE_TEACHER
from compress.teaching.config import BackboneTeacher
from compress.teaching.maps.rows import LARGEST
from compress.teaching.maps.stored import (
    Lesson,
    StoredTeacher,
    clamped_values,
    cost_ms,
    fill_store,
    open_store,
)
from export.errors import counted

Network: TypeAlias = Teacher | BackboneTeacher  # what is known of a network that teaches


def store_outputs(
    run: Run, teacher: Network, network: Detector, taught: Taught | None = None
) -> StoredTeacher:
    """Pass the pictures' views through the teacher, once, and return what reads the outputs.

    The stores of all runs lie beside them, by the hash of what they were made from; what a store
    has already is kept. The cost is written to `teach.json`.

    Raises:
        ToolkitError: the disk has no room, or the teacher's outputs are not finite.
    """
    session, recipe, name = run.session, run.recipe, str(name_of(teacher))
    lesson = lesson_of(run, teacher, network, run.build_student(recipe.seed).spec, to_run=True)
    store = open_store(lesson, session.home.parent / STORES)
    fill_store(lesson, store, session.console, rank=session.rank, world=session.world)
    for one in lesson.teacher.frozen:
        one.to("cpu")
    if session.world > 1:
        session.fabric("32-true").barrier()
    clamped = clamped_values(store)
    record_cost(run, name, store.rows, store.bytes, cost_ms(store), clamped)
    if clamped:
        session.console.warn(
            f"teach: {counted(clamped, 'value')} of the {name}'s outputs were "
            f"beyond {LARGEST:g}, the range of float16, and were clamped"
        )
    return StoredTeacher(store, lesson.teacher.spec, lesson.views, taught)


def name_of(teacher: Network) -> ModelName:
    """Return the name of a network that teaches; a backbone teaches alone."""
    return teacher.name if isinstance(teacher, Teacher) else FILE_TEACHER


def lesson_of(
    run: Run,
    teacher: Network,
    network: Detector,
    student: DetectorSpec,
    *,
    to_run: bool = False,
) -> Lesson:
    """Return what `store_outputs` computes; `to_run`: by a faster copy of the teacher's network."""
    recipe, data, config = run.recipe, run.data, run.recipe.train
    settings, precision = _asked_of(teacher, student)
    size = (data.input_height, data.input_width) if to_run else None
    live = LiveTeacher(network, student, precision, size=size)
    total, pictures = training_steps(run), pictures_in_step(data, config)
    assert recipe.teach is not None
    views = views_of(
        data,
        batch=pictures.labeled,
        unlabeled_batch=pictures.unlabeled,
        steps=total * config.accumulate,
        mosaic_until=data.augment.mosaic_steps(total) * config.accumulate,
        most=recipe.teach.views,
        most_unlabeled=recipe.teach.unlabeled_views or recipe.teach.views,
        seed=recipe.seed,
    )
    nothing: frozenset[Knowledge] = frozenset()
    wanted = nothing.union(*(loss.teacher_needs(student, live.spec) for loss in recipe.distill))
    return Lesson(live, settings, data, views, wanted - BEFOREHAND, run.session.torch_device())


def _asked_of(teacher: Network, student: DetectorSpec) -> tuple[JsonValue, TeacherPrecision]:
    """Return the settings that the stored values depend on, and the precision of the pass."""
    if isinstance(teacher, BackboneTeacher):
        settings = teacher.model_dump(mode="json", exclude={*FILES, "precision"})
        precision: TeacherPrecision = "bf16" if teacher.precision == "bf16" else "fp32"
        # its maps have their sizes
        return {**settings, "strides": list(student.strides)}, precision
    bf16 = teacher.config.precision == "bf16"
    settings = teacher.config.detector.model_dump(mode="json", exclude=FILES)
    return settings, "bf16" if bf16 else "fp32"
