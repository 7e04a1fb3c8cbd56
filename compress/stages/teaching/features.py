"""A pre-trained backbone without a head as teacher: check it, load it, store its maps."""

from pathlib import Path

from compress.detector import FEATURES, DetectorSpec
from compress.distillation.pairing import check_pair
from compress.distillation.teacher import LiveTeacher, Teaching
from compress.parts.pretrained import check_starting_weights, load_backbone_weights
from compress.stages.opened import Run
from compress.stages.teaching.costs import record_file_teacher
from compress.stages.teaching.outputs import store_outputs
from compress.teaching.backbone import BackboneSource, build_backbone_teacher, check_size
from compress.teaching.config import BackboneTeacher
from compress.teaching.maps.stored import check_stored
from export.errors import RecipeError, ToolkitError


def check_backbone(run: Run, config: BackboneTeacher, student: DetectorSpec) -> BackboneSource:
    """Build the teacher with random weights and match it with student, losses and weights file.

    Raises:
        RecipeError: a loss compares more than features, or the backbone gives no maps.
        ToolkitError: the weights file cannot be read, or is of another model.
    """
    network = _build(run, config, student)
    losses, spec = run.recipe.distill, network.spec
    problems = [
        (
            index,
            f"{loss.type} compares {', '.join(sorted(needs))}, and a teacher of type "
            f"{config.type} gives features alone; use a method that compares nothing else, such "
            "as pkd, cwd or mgd",
        )
        for index, loss in enumerate(losses)
        if (needs := loss.teacher_needs(student, spec)) - FEATURES
    ]
    problems = problems or check_pair(student, spec, losses)
    if run.recipe.stores_outputs:
        problems = problems or check_stored(student, spec, losses)
    if problems:
        pair = [("student",), ("teacher",), ("data", "image_size"), ("teach",)]
        raise RecipeError(*(f"{run.at_loss(index, *pair)}: {text}" for index, text in problems))
    for key, error in check_starting_weights(config, network):
        where = run.source.at("teacher", key, beside=[("teacher",)])
        raise type(error)(f"{where}: {error}") from error
    return network


def ask_backbone(run: Run, config: BackboneTeacher) -> Teaching:
    """Load the teacher and return it, or its stored maps where the recipe stores them.

    Raises:
        ToolkitError: its weights cannot be read or fetched, or the disk has no room.
    """
    session, student = run.session, run.build_student(run.recipe.seed).spec
    network = _build(run, config, student)
    report = load_backbone_weights(network, *config.backbone_source())
    lines = [
        f"{config.backbone} with weights from {Path(report.source).name}: {report.summary()}",
        f"maps of {', '.join(map(str, network.spec.channels))} channels at the student's strides "
        f"{', '.join(map(str, network.spec.strides))}",
        "no AP is measured, as it finds no objects",
    ]
    record_file_teacher(run, config.type, lines, None)
    if run.recipe.stores_outputs:
        return store_outputs(run, config, network)
    size = (run.data.input_height, run.data.input_width)
    return LiveTeacher(network.to(session.torch_device()), student, config.precision, size=size)


def _build(run: Run, config: BackboneTeacher, student: DetectorSpec) -> BackboneSource:
    size = (run.data.input_height, run.data.input_width)
    try:
        network = build_backbone_teacher(config, student, size)
        check_size(network, config, size)
    except ToolkitError as error:
        where = run.source.at("teacher", beside=[("teacher",), ("data", "image_size")])
        raise type(error)(*(f"{where}: {line}" for line in error.args)) from error
    return network
