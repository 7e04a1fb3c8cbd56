"""NMS settings that the student's head contradicts are refused before training."""

from dataclasses import replace
from pathlib import Path

import pytest

from compress.checking.exported import check_export
from compress.detector import Detector
from compress.stages.fit import torch_manifest
from compress.stages.opened import Run
from export.errors import RecipeError
from tests.compress.detectors.small import small_detector
from tests.compress.smoke import opened_smoke


def detector(run: Run, *, nms_free: bool) -> Detector:
    size = (run.data.input_height, run.data.input_width)
    made = small_detector("gfl", size, len(run.data.classes))
    made.spec = replace(made.spec, nms_free=nms_free, classes=run.data.classes)
    return made


def refusal(folder: Path, *overrides: str, student_free: bool, teacher_free: bool) -> str:
    run = opened_smoke(folder, *overrides)
    teacher, student = (detector(run, nms_free=free) for free in (teacher_free, student_free))
    try:
        check_export(run, student, [teacher])
    except RecipeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("override", "said"),  # the small GFL gives 6 classes at 84 locations
    [
        ("export.nms=graph", "export.nms: graph, but the head of the student (gfl) gives one box"),
        ("export.nms=matrix", "export.nms: matrix, but the head of the student (gfl) gives one"),
        ("export.nms_iou=0.6", "export.nms_iou: 0.6, but the head of the student (gfl) gives one"),
        (
            "export.max_detections=505",
            "export.max_detections: 505, but the head of the student (gfl) gives 504 boxes per "
            "picture; set at most 504",
        ),
        ("export.max_detections=504", ""),
        ("export.nms=none", ""),
        ("export.nms=host", ""),  # the default: whatever the head needs
    ],
)
def test_what_an_nms_free_student_cannot_have_is_refused(
    tmp_path: Path, override: str, said: str
) -> None:
    found = refusal(tmp_path, override, student_free=True, teacher_free=True)
    assert said in found if said else not found


def test_the_iou_of_a_teacher_with_nms_may_be_set(tmp_path: Path) -> None:
    given = "export.nms_iou=0.7"
    assert not refusal(tmp_path, given, student_free=True, teacher_free=False)


def test_a_student_that_needs_nms_cannot_have_none(tmp_path: Path) -> None:
    found = refusal(tmp_path, "export.nms=none", student_free=False, teacher_free=True)
    assert "export.nms: none, and the head of the student (gfl) gives several boxes" in found


@pytest.mark.parametrize(
    "override", ["export.nms=graph", "export.nms_iou=0.5", "export.max_detections=9999"]
)
def test_a_student_that_needs_nms_is_as_free_as_before(tmp_path: Path, override: str) -> None:
    assert not refusal(tmp_path, override, student_free=False, teacher_free=True)


@pytest.mark.parametrize("override", ["export.nms=host", "export.nms=none", "export.nms=graph"])
def test_the_mode_is_that_of_the_head(tmp_path: Path, override: str) -> None:
    run = opened_smoke(tmp_path, override)
    for free, mode in ((True, "none"), (False, "host")):
        model = detector(run, nms_free=free)
        assert torch_manifest(model, run.data, run.recipe.export, "student").nms.mode == mode
