"""Find what would stop a run before its first step; loads nothing that trains or measures."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gates import load_report
from compress.checking.amounts import check_amounts, check_batch
from compress.checking.exported import check_export, check_keep_float
from compress.detector import BEFOREHAND, Detector
from compress.detectors import DetectorConfig
from compress.distillation.pairing import check_pair
from compress.losses.parts.classifier import ClassifierConfig
from compress.memory import is_large, refuse_oversized
from compress.parts.pretrained import FETCHED, check_starting_weights
from compress.parts.weights import inheritable, read_tensors
from compress.recipe import Recipe
from compress.recipe_source import Source
from compress.stages.opened import Run, pictures_in_step
from compress.stages.teaching.features import check_backbone
from compress.stages.teaching.files import open_file_teacher, read_file_teacher
from compress.teaching.beforehand import box_spec
from compress.teaching.config import PredictionsTeacher
from compress.teaching.maps.stored import check_stored
from compress.tracking.open import check_trackers
from compress.training.optim import check_held
from export.errors import DataError, RecipeError, ToolkitError, counted
from export.precision.model_optimizer import require_model_optimizer
from export.reading.plain_yaml import Key, dotted

# Share of the weights of neck and head below which `inherit` would copy little but biases.
LEAST_INHERITED = 0.5
UNLABELED, LABELED = ("data", "unlabeled"), ("data", "train")


def check_models(run: Run) -> tuple[Detector, list[Detector]]:
    """Build all models with random weights and match them; return the student and what teaches it.

    A large model is built on torch's meta device, without weights, which would take seconds.

    Raises:
        RecipeError: a loss cannot work on one of the pairs, a line for each, with its place; a
            model is too large for the machine; or its weights file is of another model.
        MissingDependencyError: a package that a model is made of is not installed.
    """
    refuse_oversized(run)
    with torch.random.fork_rng(devices=[]):
        with _device_for(run, run.recipe.student), _named(run, "student"):
            student = run.build_student(run.recipe.seed)
        built = []
        for teacher in run.teachers:
            keys = (*teacher.keys, "detector")
            with _device_for(run, teacher.config.detector), _named(run, *keys):
                built.append(teacher.build(run.recipe.seed))
    lines = []
    for teacher, detector in zip(run.teachers, built, strict=True):
        who = f"{teacher.name}: " if len(run.teachers) > 1 else ""
        pair: list[Key] = [("student",), (*teacher.keys, "detector"), ("data", "image_size")]
        lines += [
            f"{run.at_loss(index, *pair)}: {who}{text}"
            for index, text in check_pair(student.spec, detector.spec, run.recipe.distill)
        ]
        if run.recipe.stores_outputs and not lines:
            lines += [
                f"{run.at_loss(index, *pair, ('teach',))}: {who}{text}"
                for index, text in check_stored(student.spec, detector.spec, run.recipe.distill)
            ]
    if lines:
        raise RecipeError(*lines)
    _check_file_teacher(run, student)
    if run.recipe.inherit != "none":
        _check_inheritance(run, student, built[0])
    check_export(run, student, built)
    check_keep_float(run, student)
    _check_weights(run, student, built)
    _check_frozen(run, student, built)
    backbone = run.recipe.backbone_teacher
    if backbone is not None:
        with torch.random.fork_rng(devices=[]):
            built.append(check_backbone(run, backbone, student.spec))
    return student, built


def _check_file_teacher(run: Run, student: Detector) -> None:
    """Read the file of a teacher that is no network of this package, and match it with the data.

    Raises:
        RecipeError: a loss compares more than boxes.
        ToolkitError: the file cannot be read, or fits neither pictures nor classes.
    """
    config = run.recipe.file_teacher
    if config is None:
        return
    spec = box_spec(config.type, student.spec)
    lines = [
        f"{run.at_loss(index, ('teacher',))}: {loss.type} compares more than boxes, and a teacher "
        f"of type {config.type} gives nothing else; use pseudo_labels"
        for index, loss in enumerate(run.recipe.distill)
        if loss.own_images or not loss.teacher_needs(student.spec, spec) <= BEFOREHAND
    ]
    if lines:
        raise RecipeError(*lines)
    if isinstance(config, PredictionsTeacher):
        read_file_teacher(run, config)
    else:
        open_file_teacher(run, config)


def _check_inheritance(run: Run, student: Detector, teacher: Detector) -> None:
    """Refuse to start from a teacher whose neck and head are others.

    Raises:
        RecipeError: few of the student's weights have the name and shape of one of the teacher's.
    """
    share = inheritable(student, teacher)
    if share < LEAST_INHERITED:
        raise RecipeError(
            f"{run.source.at('inherit', beside=[('student',), ('teacher',)])}: "
            f"{run.recipe.inherit}, and {share:.1%} of the weights of the student's neck and head "
            f"({student.spec.family}, channels {list(student.spec.channels)}) have the name and "
            f"shape of the teacher's ({teacher.spec.family}, channels "
            f"{list(teacher.spec.channels)}); choose models of one family and width, or remove "
            "this key"
        )


@contextlib.contextmanager
def _named(run: Run, *keys: str | int) -> Iterator[None]:
    """Put the place of a detector's settings before an error of building it."""
    try:
        yield
    except ToolkitError as error:
        where = run.source.at(*keys, beside=[keys, ("data", "image_size")])
        raise type(error)(*(f"{where}: {line}" for line in error.args)) from error


def _device_for(run: Run, config: DetectorConfig) -> torch.device:
    size = (run.data.input_height, run.data.input_width)
    return torch.device("meta" if is_large(config, size) else "cpu")


def _check_weights(run: Run, student: Detector, teachers: list[Detector]) -> None:
    """Read the headers of the weights files that the models start from.

    Raises:
        ToolkitError: a file is missing, damaged, no store of tensors, or of another model.
    """
    detectors: list[tuple[DetectorConfig, Detector, bool, Key]]
    detectors = [(run.recipe.student, student, True, ("student",))]
    for teacher, model in zip(run.teachers, teachers, strict=True):
        config = teacher.config
        detectors.append((config.detector, model, config.strict, (*teacher.keys, "detector")))
    for settings, model, strict, keys in detectors:
        for key, error in check_starting_weights(settings, model, strict=strict):
            where = run.source.at(*keys, key, beside=[keys])
            raise type(error)(f"{where}: {error}") from error
        try:
            copied = run.transfer(model, settings, copy=False)
        except ToolkitError as error:
            where = run.source.at(*keys, "transfer", beside=[keys])
            raise type(error)(f"{where}: {error}") from error
        if copied is not None and not copied.complete:
            run.session.console.warn(
                f"{run.source.at(*keys, 'transfer')}: {copied.source}: {copied.summary()}; "
                "expected a file of the same network"
            )
    wanted = wanted_classifier(run.recipe, run.source)
    file = None if wanted is None else wanted[0].backbone_weights
    if wanted is not None and file is not None and file not in FETCHED:
        try:
            read_tensors(Path(file), "backbone_weights", shapes=True)
        except ToolkitError as error:
            where = run.source.at(*wanted[1], "backbone_weights")
            raise type(error)(f"{where}: {error}") from error


def _check_frozen(run: Run, student: Detector, teachers: list[Detector]) -> None:
    """Match the settings of a backbone's stages with it; warn of frozen random weights.

    Raises:
        RecipeError: the backbone has fewer stages, or no layers that the settings are for.
    """
    for one in run.trainings:
        model = student if one.teacher is None else teachers[one.teacher]
        for key, error in check_held(model, one.config):
            where = run.source.at(*one.keys, key, beside=[one.detector_keys])
            raise RecipeError(f"{where}: {error}")
        held = [key for key in ("freeze_at", "norm_eval") if getattr(one.config, key)]
        if held and not one.detector.begins_trained:
            run.session.console.warn(
                f"{run.source.at(*one.keys, held[0])}: keeps random weights as they are; give "
                f"{dotted(one.detector_keys)} the weights of a trained backbone"
            )


def check_training(run: Run) -> None:
    """Find mistakes that would otherwise stop the run only when a later stage begins.

    Raises:
        RecipeError: the device lacks the precision, the processes cannot share a batch evenly, or
            pictures without labels have no use.
        DataError: a batch is larger than its set of pictures.
        MissingDependencyError: a tracker or the package that makes FP8 graphs is not installed.
    """
    session, recipe, data, source = run.session, run.recipe, run.data, run.source
    _advise(run)
    check_amounts(run)
    trainings = [(one.config, one.data, one.keys) for one in run.trainings]
    if recipe.gates is not None and recipe.gates.reference is not None:
        try:
            load_report(recipe.gates.reference)
        except ToolkitError as error:
            raise RecipeError(f"{source.at('gates', 'reference')}: {error}") from error
    check_trackers(recipe.track)
    if "fp8" in recipe.export.precisions:
        require_model_optimizer()
    wanted = wanted_classifier(recipe, source)
    if wanted is not None:
        trainings.append((wanted[0].schedule(), data, wanted[1]))
    for config, images, keys in trainings:
        check_batch(run, config, images, keys)
        if config.amp == "fp16" and session.torch_device().type == "cpu":
            raise RecipeError(
                f"{source.at(*keys, 'amp')}: fp16 needs a GPU; set auto, bf16 or off on a CPU"
            )
        if config.batch % session.world:
            raise RecipeError(
                f"{source.at(*keys, 'batch')}: {config.batch} pictures cannot be shared evenly by "
                f"{session.world} processes; choose a multiple of {session.world}"
            )
    if recipe.teach is not None and not recipe.stores_outputs:
        raise RecipeError(
            f"{source.at('teach', beside=[('teacher',), ('distill',)])}: is for the teachers of a "
            "recipe with distill, and there is no "
            f"{'teacher' if recipe.teacher is None else 'loss'}; remove this key"
        )
    if data.unlabeled is not None and recipe.teacher is None:
        raise RecipeError(
            f"{source.at(*UNLABELED, beside=[('teacher',)])}: pictures without labels are "
            "for distillation, and the recipe has no teacher; remove this key"
        )
    _check_step(run)
    unlabeled, trained = recipe.data.unlabeled, recipe.data.train.split or "train"
    if unlabeled is not None and unlabeled.rest and recipe.data.type == "shapes":
        name = unlabeled.split or "unlabeled"
        if name != trained:
            raise RecipeError(
                f"{source.at(*UNLABELED, beside=[UNLABELED, LABELED])}: rest: the drawn split "
                f"{name} holds none of the pictures that train has, so there is nothing to leave "
                f"out; set split: {trained}, or remove rest"
            )


def _check_step(run: Run) -> None:
    """Refuse numbers of pictures with and without labels that no step can have."""
    recipe, data, source = run.recipe, run.data, run.source
    for one in run.trainings:
        if one.teacher is None and data.unlabeled is not None:
            continue
        for part in ("labeled_batch", "unlabeled_batch"):
            if getattr(one.config, part):
                lacks = (
                    "there are no pictures without labels; add data.unlabeled, or remove this key"
                    if one.teacher is None
                    else "a teacher learns from labels alone; remove this key"
                )
                where = source.at(*one.keys, part, beside=[UNLABELED])
                raise RecipeError(f"{where}: {lacks}")
    if data.unlabeled is None or not recipe.distill:
        return
    asked = pictures_in_step(data, recipe.train)
    steps = [("train", key) for key in ("labeled_batch", "unlabeled_batch", "batch")]
    if len(data.unlabeled) < asked.unlabeled:
        raise DataError(
            f"{source.at(*UNLABELED, beside=[UNLABELED, *steps])}: has "
            f"{counted(len(data.unlabeled), 'picture')}, and a step takes {asked.unlabeled}; set "
            "train.unlabeled_batch to no more than there are"
        )
    if len(data.train) < asked.labeled:
        raise DataError(
            f"{source.among(*steps, UNLABELED, LABELED)}: a step takes {asked.labeled} labelled "
            f"pictures, and there {'is' if len(data.train) == 1 else 'are'} {len(data.train)}; "
            "choose no more than there are"
        )
    if asked.labeled % run.session.world:
        raise RecipeError(
            f"{source.among(*steps)}: {asked.labeled} pictures cannot be shared "
            f"evenly by {run.session.world} processes; choose a multiple of {run.session.world}"
        )


def _advise(run: Run) -> None:
    """Warn of settings of a training that its family is unlikely to learn with."""
    for one in run.trainings:
        advice = one.detector.advise(one.config.lr, one.config.clip)
        if advice is not None:
            run.session.console.warn(f"{run.source.at(*one.keys)}: {advice}")


def wanted_classifier(
    recipe: Recipe, source: Source | None = None
) -> tuple[ClassifierConfig, Key] | None:
    """Return the settings of the classifier that a loss needs, and their path in the recipe.

    Raises:
        RecipeError: two losses need different classifiers.
    """
    found: tuple[ClassifierConfig, Key] | None = None
    for index, loss in enumerate(recipe.distill):
        config = loss.wanted_classifier()
        keys = ("distill", index, "classifier")
        if config is None:
            continue
        if found is not None and found[0] != config and source is not None:
            raise RecipeError(
                f"{source.at(*keys, beside=[keys, found[1]])}: differs from the classifier of "
                "another loss; a run trains one, so give both the same settings"
            )
        found = found or (config, keys)
    return found
