"""Match the settings of the export with the student's head and layers."""

import re
from functools import partial

import torch
from torch import nn

from compress.detector import Detector
from compress.stages.opened import Run
from export.errors import RecipeError, counted, shown

EIGHT_BITS = ("int8", "int8-trt", "fp8")
# Names that the exporter gives to nodes and values; whether they are in the graph, it alone tells.
GIVEN_AT_EXPORT = re.compile(r"(node|val)_.*|_?(Conv|Gemm|MatMul)(_\d*)?|_?\d+")


def check_export(run: Run, student: Detector, teachers: list[Detector]) -> None:
    """Refuse settings of NMS that the student's head contradicts.

    Raises:
        RecipeError: NMS is set for a head that needs none, or none for one that needs it; or more
            boxes than the head gives.
    """
    export, family = run.recipe.export, student.spec.family
    at = partial(run.source.at, "export", beside=[("student",)])
    if not student.spec.nms_free:
        if export.nms == "none":
            raise RecipeError(
                f"{at('nms')}: none, and the head of the student ({family}) gives "
                "several boxes per object, which NMS reduces to one; set host, graph or matrix"
            )
        return
    why = f"the head of the student ({family}) gives one box per object and needs no NMS"
    if export.nms in ("graph", "matrix"):
        raise RecipeError(f"{at('nms')}: {export.nms}, but {why}; remove this key")
    alone = all(teacher.spec.nms_free for teacher in teachers)  # else it is for their NMS
    if alone and "nms_iou" in export.model_fields_set:
        raise RecipeError(f"{at('nms_iou')}: {export.nms_iou:g}, but {why}; remove it")
    if "max_detections" in export.model_fields_set:
        most = _candidate_count(student, (run.data.input_height, run.data.input_width))
        if most is not None and export.max_detections > most:
            raise RecipeError(
                f"{at('max_detections')}: {export.max_detections}, but the head of the "
                f"student ({family}) gives {most} boxes per picture; set at most {most}"
            )


def check_keep_float(run: Run, student: Detector) -> None:
    """Refuse parts of layer names that no layer of the student has, or that leave none to quantise.

    Raises:
        RecipeError: naming the part, and some of the names.
    """
    export, keys = run.recipe.export, ("export", "quantization", "keep_float")
    at = partial(run.source.at, *keys, beside=[("student",)])
    parts = export.quantization.keep_float
    if not parts:
        return
    if not set(EIGHT_BITS).intersection(export.precisions):
        run.session.console.warn(
            f"{at(beside=[('export', 'precisions')])}: has no effect, as export.precisions names "
            f"none of {', '.join(EIGHT_BITS)}"
        )
    layers = [
        f"detector.{name}.weight"  # as the graph names it; a folded norm's bias with _bias after it
        for name, layer in student.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    known = [f"{name}_bias" for name in layers] + [f"{name[:-6]}bias" for name in layers]
    for index, part in enumerate(parts):
        if GIVEN_AT_EXPORT.fullmatch(part) or any(part in name for name in known):
            continue
        raise RecipeError(
            f"{at(index)}: no layer of the student has {shown(part)} in its name (a text, no "
            f"pattern); its {counted(len(layers), 'layer')} are named like {layers[0]} and "
            f"{layers[-1]}"
        )
    if all(any(part in name for part in parts) for name in layers):
        raise RecipeError(
            f"{at()}: every one of the student's {counted(len(layers), 'layer')} would stay float; "
            "name fewer, or remove the 8-bit precisions"
        )


@torch.inference_mode()
def _candidate_count(detector: Detector, size: tuple[int, int]) -> int | None:
    """Return how many boxes a detector gives per picture, by passing one; None if none passes."""
    training = detector.training
    try:
        with next(detector.parameters()).device:
            return detector.eval().candidates(torch.zeros(1, 3, *size)).scores.shape[1]
    except RuntimeError:  # on the meta device: a family that mixes in tensors of the CPU
        return None
    finally:
        detector.train(training)
