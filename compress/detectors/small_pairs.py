"""Small real detectors of every family, in pairs: what methods are matched with and tried on."""

from collections.abc import Mapping
from typing import Any, NamedTuple, get_args

import torch

from compress.detector import Detector
from compress.detectors import DetectorConfig
from compress.detectors.parts.settings import DetectorSection
from compress.parts.norm import Norm

CLASSES = 3
SIZE = (64, 96)  # height, width, pixels
TEACHER_WIDTHS, STUDENT_WIDTHS = (32, 32, 32, 32), (16, 16, 16, 16)
# A family takes those of these settings that it has.
SMALL: dict[str, Any] = {
    "width": 16,
    "head_width": 16,
    "head_depth": 1,
    "strides": (8, 16, 32),
    "proposals": 20,
    "rois_per_image": 32,
}
# The smallest models of families whose models have names: student and teacher.
NAMED = {"yolo": ("yolo11n", "yolo11s"), "rtdetr": ("rtdetr-l", "rtdetr-l")}
Settings = dict[str, Any]


class SmallPair(NamedTuple):
    """A student and a teacher."""

    student: Detector
    teacher: Detector


def detector_settings() -> dict[str, type[DetectorSection]]:
    """Return `type` -> settings class of every detector family."""
    classes: tuple[type[DetectorSection], ...] = get_args(get_args(DetectorConfig)[0])
    return {get_args(one.model_fields["type"].annotation)[0]: one for one in classes}


def families() -> tuple[str, ...]:
    """Return the names of the detector families whose packages are installed."""
    known = detector_settings()
    return tuple(name for name, one in known.items() if one.missing_package() is None)


def small_settings(family: str, **changes: Any) -> Settings:
    """Return the settings of a family's small student, with those of `changes` that it has."""
    fields = detector_settings()[family].model_fields
    known: Settings = {
        "type": family,
        "backbone": {"type": "slim_resnet", "widths": STUDENT_WIDTHS},
        "model": NAMED.get(family, ("",))[0],
        **SMALL,
        **changes,
    }
    return {key: value for key, value in known.items() if key in fields}


def build_small(
    settings: Settings, classes: int = CLASSES, size: tuple[int, int] = SIZE
) -> Detector:
    """Build a detector of small settings with random weights."""
    section = detector_settings()[settings["type"]]
    return section.model_validate(settings).build(classes, size)


def small_pair(family: str, norm: Norm = "batch") -> SmallPair:
    """Build a small pair of a family: equal pyramids and heads, another backbone.

    The models of families whose models have names are the two smallest.
    """
    if family in NAMED:
        student, teacher = (small_settings(family, model=model) for model in NAMED[family])
    else:
        backbone = {"type": "slim_resnet", "widths": TEACHER_WIDTHS}
        student = small_settings(family, norm=norm)
        teacher = small_settings(family, norm=norm, backbone=backbone)
    return SmallPair(build_small(student), build_small(teacher))


def unlike_pairs() -> dict[str, tuple[Settings, Settings]]:
    """Return name -> settings of student and teacher of different families or generations."""
    gfl = small_settings("gfl", width=32, reg_max=15)
    yolo = {size: small_settings("yolo", model=f"yolo11{size}") for size in "ns"}
    yolo26 = {size: small_settings("yolo", model=f"yolo26{size}") for size in "ns"}
    rtdetr = small_settings("rtdetr")
    return {
        "yolo26s to yolo26n": (yolo26["n"], yolo26["s"]),
        "yolo11s to yolo26n": (yolo26["n"], yolo["s"]),
        "gfl to yolo11n": (yolo["n"], gfl),
        "yolo11s to gfl": (small_settings("gfl", reg_max=15), yolo["s"]),
        "yolo11s to retinanet": (small_settings("retinanet"), yolo["s"]),
        "yolo11s to fcos": (small_settings("fcos"), yolo["s"]),
        "yolo11s to faster_rcnn": (small_settings("faster_rcnn"), yolo["s"]),
        "rtdetr-l to yolo11n": (yolo["n"], rtdetr),
        "rtdetr-l to faster_rcnn": (small_settings("faster_rcnn"), rtdetr),
    }


def build_pair(student: Settings, teacher: Settings) -> SmallPair:
    """Build a pair of small settings."""
    return SmallPair(build_small(student), build_small(teacher))


def planned(settings: Mapping[str, Any]) -> Detector:
    """Build a detector of small settings without weights, for its spec alone."""
    with torch.device("meta"):
        return build_small(dict(settings))


def planned_pair(family: str) -> SmallPair:
    """Build a small pair without weights, on torch's meta device, for their specs alone."""
    with torch.device("meta"):
        return small_pair(family)
