"""Teachers that are files: read or opened, and matched with the data."""

from functools import partial
from typing import Literal

from compress.stages.model_name import ModelName
from compress.stages.opened import Run
from compress.teaching.beforehand import Found, sets_of
from compress.teaching.classes import ClassMatch, match_classes
from compress.teaching.config import OnnxTeacher, PredictionsTeacher
from compress.teaching.onnx.detector import BoxDetector, open_detector
from compress.teaching.predictions.reading import read_predictions

FILE_TEACHER = ModelName.of_teacher(0)


def read_file_teacher(run: Run, config: PredictionsTeacher) -> tuple[Found, list[str]]:
    """Read a file of results and match it with the data; also return what was read, in lines.

    Raises:
        ToolkitError: see `read_predictions`.
    """
    sets = sets_of(run.data)
    read = read_predictions(config, sets, partial(run.source.at, "teacher", beside=[("teacher",)]))
    boxes = dict(read.taught)
    warnings = list(read.warnings)
    if not len(boxes["val"].scores):  # the teacher was not run on them, which is no fault
        del boxes["val"]
        warnings = [line for line in warnings if " of val have no box " not in line]
    for line in warnings:
        run.session.console.warn(f"{FILE_TEACHER}: {line}")
    return Found(boxes), list(read.lines)


def open_file_teacher(run: Run, config: OnnxTeacher) -> tuple[BoxDetector, ClassMatch]:
    """Open the ONNX file of a teacher and match its classes.

    Raises:
        ToolkitError: see `open_detector` and `match_classes`.
    """
    at = partial(run.source.at, "teacher", beside=[("teacher",)])
    device: Literal["cpu", "cuda"] = "cuda" if run.session.torch_device().type == "cuda" else "cpu"
    opened = open_detector(config, device, at)
    return opened, match_classes(run.data.classes, opened.classes, config.class_map, at)
