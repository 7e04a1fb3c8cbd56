"""Settings of every method that `benchmarks.studies.kd_step` measures on a pair."""

from collections.abc import Sequence

from pydantic import JsonValue

from compress.detector import Detector
from compress.distillation.pairing import check_pair
from compress.losses.parts.classifier import Classifier
from compress.losses.parts.loss import LossSection
from compress.methods import OF_STUDENT, example, loss_settings


def method_names() -> tuple[str, ...]:
    """Return the `type` of every member of the union of losses."""
    return tuple(loss_settings())


def fitting(
    names: Sequence[str], student: Detector, teacher: Detector
) -> tuple[dict[str, LossSection], dict[str, str]]:
    """Return settings of the methods that fit a pair, and reasons for those that do not.

    A method that compares proposals has a second row, `<method>, roi_source: student`: there the
    student's proposals, not the teacher's, are scored by both models.
    """
    rows: dict[str, LossSection] = {}
    skipped: dict[str, str] = {}
    for name in names:
        config: LossSection = example(name)
        problems = check_pair(student.spec, teacher.spec, [config])
        if problems:
            skipped[name] = "; ".join(text for _, text in problems)
            continue
        rows[name] = config
        shares = "rois" in config.teacher_needs(student.spec, teacher.spec)
        if shares and "roi_source" in type(config).model_fields:
            rows[f"{name}, {OF_STUDENT}"] = config.model_copy(update={"roi_source": "student"})
    return rows, skipped


def stated(config: LossSection) -> dict[str, JsonValue]:
    """Return the settings of a row that differ from the defaults, except `type`."""
    found: dict[str, JsonValue] = config.model_dump(mode="json", exclude_defaults=True)
    return {key: value for key, value in found.items() if key != "type"}


def random_classifier(config: LossSection, student: Detector) -> Classifier | None:
    """Build the classifier of crops that a method learns from, with random weights."""
    wanted = config.wanted_classifier()
    if wanted is None:
        return None
    classifier: Classifier = wanted.build(student.spec.num_classes)
    return classifier.to(next(student.parameters()).device).eval().requires_grad_(False)
