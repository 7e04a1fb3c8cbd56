"""NMS inside the ONNX graph, in two forms that keep the same boxes as NMS on the host.

`graph` uses NonMaxSuppression with one channel of scores per class, so classes are independent and
boxes stay in pixels. `matrix` has static shapes only: a box is kept if no kept box of its class
with a higher score overlaps it; `rounds` matrix products reach this fixed point of greedy NMS
exactly if no chain of suppressions is longer. The order of rows does not matter, and NonZero, Loop
and If are not used.
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from export.artifact.manifest import Manifest, NmsSpec, file_sha256, read_manifest, write_manifest
from export.detections import Candidates, overlapping
from export.engine import open_engine
from export.errors import ExportError
from export.graph.edit import read_graph, save_checked, tidy
from export.optional import require
from export.pictures.images import to_input

if TYPE_CHECKING:
    import onnx

MOST_ROUNDS = 64
_CANDIDATES = ("boxes", "scores", "labels")


def put_nms_inside(
    path: Path, mode: Literal["graph", "matrix"], canvases: Sequence[NDArray[np.uint8]]
) -> Manifest:
    """Rewrite the ONNX file at `path` and its sidecar so that the graph gives detections.

    Outputs become `num` (B,) int32, `boxes` (B, D, 4), `scores` (B, D) and `labels` (B, D) int32,
    best first; D is the most detections kept, beyond `num` scores and labels are -1.

    Args:
        path: artifact with NMS on the host.
        mode: the form.
        canvases: real letterboxed pictures, on which the matrix form must have converged.

    Raises:
        ExportError: NMS is not on the host, none is needed, or the matrix form does not converge in
            64 rounds.
    """
    sidecar = path.with_suffix(".json")
    manifest = read_manifest(sidecar)
    if manifest.nms.mode == "none":
        raise ExportError(f"{path}: its head gives one box per object and needs no NMS")
    if manifest.nms.mode != "host":
        raise ExportError(f"{path}: its NMS is {manifest.nms.mode} already; start from host")
    rounds = None
    if mode == "matrix":
        if not canvases:
            raise ExportError(f"{path}: matrix NMS needs real pictures to show that it converges")
        rounds = rounds_needed(path, canvases)
    spec = manifest.nms.model_copy(update={"mode": mode, "rounds": rounds})
    model = with_nms(read_graph(path), spec, len(manifest.classes))
    save_checked(model, path)
    filled = manifest.model_copy(update={"nms": spec, "sha256": file_sha256(path)})
    write_manifest(filled, sidecar)
    return filled


def with_nms(model: "onnx.ModelProto", spec: NmsSpec, classes: int) -> "onnx.ModelProto":
    """Return `model` (`onnx.ModelProto`, candidates out) with NMS behind its outputs."""
    onnx = require("onnx", extra="train", purpose="Putting NMS into a graph")
    named = _rename_outputs(onnx, model)
    shapes = {v.name: _shape(v) for v in named.graph.output}
    batch, count = shapes["candidate_boxes"][0], shapes["candidate_boxes"][1]
    if not isinstance(count, int):
        raise ExportError("the graph's number of candidates is not fixed; export it again")
    opset = next(o.version for o in named.opset_import if o.domain == "")
    body = _matrix(spec, count) if spec.mode == "matrix" else _non_max_suppression(spec, classes)
    text = f"""<ir_version: {named.ir_version}, opset_import: ["" : {opset}]>
    nms (float[{batch},{count},4] nms_boxes, float[{batch},{count}] nms_scores,
         int32[{batch},{count}] nms_labels) =>
        (int32[{batch}] num, float[{batch},D,4] boxes, float[{batch},D] scores,
         int32[{batch},D] labels)
    {{ {body} {_best(min(spec.max_detections, count))} }}"""
    nms = onnx.parser.parse_model(text)
    for number, node in enumerate(nms.graph.node):
        node.name = f"nms_{number}_{node.op_type}"
    for value in nms.graph.output:
        dimensions = value.type.tensor_type.shape.dim
        if len(dimensions) > 1:
            dimensions[1].dim_value = min(spec.max_detections, count)
    joined = onnx.compose.merge_models(
        named, nms, io_map=[(f"candidate_{name}", f"nms_{name}") for name in _CANDIDATES]
    )
    tidy(joined)
    return joined


def _rename_outputs(onnx: ModuleType, model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Return a copy whose outputs are called candidate_*."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    graph = named.graph
    names = {name: f"candidate_{name}" for name in _CANDIDATES}
    for node in graph.node:
        for values in (node.input, node.output):
            for slot, name in enumerate(values):
                values[slot] = names.get(name, name)
    for value in (*graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)
    return named


def _shape(value: "onnx.ValueInfoProto") -> list[int | str]:
    return [d.dim_value or d.dim_param for d in value.type.tensor_type.shape.dim]


def _non_max_suppression(spec: NmsSpec, classes: int) -> str:
    """Text of nodes from nms_* to `kept` (B, P) bool."""
    names = ", ".join(str(number) for number in range(classes))
    return f"""
        class_names = Constant<value = int32[1, {classes}, 1] {{ {names} }}>()
        first = Constant<value_ints = [1]>()
        rows = Unsqueeze(nms_labels, first)
        of_class = Equal(rows, class_names)
        score_rows = Unsqueeze(nms_scores, first)
        never = Constant<value_float = -1.0>()
        class_scores = Where(of_class, score_rows, never)
        at_most = Constant<value_ints = [{spec.max_detections}]>()
        iou = Constant<value_floats = [{spec.iou!r}]>()
        least = Constant<value_floats = [0.0]>()
        found = NonMaxSuppression(nms_boxes, class_scores, at_most, iou, least)
        columns = Constant<value_ints = [0, 2]>()
        places = Gather<axis = 1>(found, columns)
        found_shape = Shape<end = 1>(found)
        one = Constant<value_float = 1.0>()
        ones = Expand(one, found_shape)
        whole_shape = Shape(nms_scores)
        zero = Constant<value_float = 0.0>()
        nothing = Expand(zero, whole_shape)
        marks = ScatterND(nothing, places, ones)
        half = Constant<value_float = 0.5>()
        kept = Greater(marks, half)
    """


def _matrix(spec: NmsSpec, count: int) -> str:
    """Text of nodes from nms_* to `kept` (B, P) bool; rows of the matrices are the better boxes."""
    turns = "\n".join(
        f"""
        covered{turn} = MatMul(alive{turn}, suppress)
        free{turn} = Less(covered{turn}, half)
        free_number{turn} = Cast<to = 1>(free{turn})
        alive{turn + 1} = Mul(valid_row, free_number{turn})"""
        for turn in range(spec.rounds or 1)
    )
    return f"""
        half = Constant<value_float = 0.5>()
        zero = Constant<value_float = 0.0>()
        first = Constant<value_ints = [1]>()
        last = Constant<value_ints = [2]>()
        sides = Constant<value_ints = [1, 1, 1, 1]>()
        x1, y1, x2, y2 = Split<axis = 2>(nms_boxes, sides)
        width = Sub(x2, x1)
        height = Sub(y2, y1)
        area = Mul(width, height)
        x1_row = Transpose<perm = [0, 2, 1]>(x1)
        y1_row = Transpose<perm = [0, 2, 1]>(y1)
        x2_row = Transpose<perm = [0, 2, 1]>(x2)
        y2_row = Transpose<perm = [0, 2, 1]>(y2)
        area_row = Transpose<perm = [0, 2, 1]>(area)
        left = Max(x1, x1_row)
        top = Max(y1, y1_row)
        right = Min(x2, x2_row)
        bottom = Min(y2, y2_row)
        shared_width = Sub(right, left)
        shared_height = Sub(bottom, top)
        shared_width0 = Max(shared_width, zero)
        shared_height0 = Max(shared_height, zero)
        shared = Mul(shared_width0, shared_height0)
        areas = Add(area, area_row)
        union = Sub(areas, shared)
        iou = Constant<value_float = {spec.iou!r}>()
        limit = Mul(union, iou)
        covers = Greater(shared, limit)
        label_rows = Unsqueeze(nms_labels, first)
        label_columns = Unsqueeze(nms_labels, last)
        same = Equal(label_rows, label_columns)
        score_row = Unsqueeze(nms_scores, first)
        score_column = Unsqueeze(nms_scores, last)
        better = Greater(score_column, score_row)
        tied = Equal(score_column, score_row)
        start = Constant<value_int = 0>()
        step = Constant<value_int = 1>()
        end = Constant<value_int = {count}>()
        index = Range(start, end, step)
        index_column = Unsqueeze(index, first)
        earlier = Less(index_column, index)
        tied_earlier = And(tied, earlier)
        before = Or(better, tied_earlier)
        covers_same = And(covers, same)
        suppresses = And(covers_same, before)
        suppress = Cast<to = 1>(suppresses)
        valid = Greater(score_row, zero)
        valid_row = Cast<to = 1>(valid)
        alive0 = Identity(valid_row)
        {turns}
        alive_row = Greater(alive{spec.rounds or 1}, half)
        kept = Squeeze(alive_row, first)
    """


def _best(count: int) -> str:
    """Text of nodes from `kept` to the outputs.

    NaN is above no threshold. So that a broken model is not taken for an empty picture, candidates
    that are not finite make all scores of their picture NaN: 0 times NaN or infinity is NaN.
    """
    return f"""
        lost = Constant<value_float = -1.0>()
        kept_scores = Where(kept, nms_scores, lost)
        top_count = Constant<value_ints = [{count}]>()
        best_scores, order = TopK<axis = 1>(kept_scores, top_count)
        last_axis = Constant<value_ints = [2]>()
        order_column = Unsqueeze(order, last_axis)
        four = Constant<value_ints = [1, 1, 4]>()
        order_boxes = Expand(order_column, four)
        boxes = GatherElements<axis = 1>(nms_boxes, order_boxes)
        best_labels = GatherElements<axis = 1>(nms_labels, order)
        nought = Constant<value_float = 0.0>()
        is_box = Greater(best_scores, nought)
        no_label = Constant<value = int32 {{-1}}>()
        labels = Where(is_box, best_labels, no_label)
        box_number = Cast<to = 6>(is_box)
        counted = Constant<value_ints = [1]>()
        num = ReduceSum<keepdims = 0>(box_number, counted)
        score_zeros = Mul(nms_scores, nought)
        box_zeros = Mul(nms_boxes, nought)
        of_scores = ReduceSum<keepdims = 1>(score_zeros, counted)
        box_axes = Constant<value_ints = [1, 2]>()
        of_boxes = ReduceSum<keepdims = 0>(box_zeros, box_axes)
        of_boxes_column = Unsqueeze(of_boxes, counted)
        zero_or_nan = Add(of_scores, of_boxes_column)
        scores = Add(best_scores, zero_or_nan)
    """


def rounds_needed(path: Path, canvases: Sequence[NDArray[np.uint8]]) -> int:
    """Return the rounds after which no picture's boxes change, plus a reserve.

    Raises:
        ExportError: more than 64.
    """
    most = 1
    with open_engine(path) as engine:
        iou = engine.manifest.nms.iou
        for canvas in canvases:
            found = engine.candidates(to_input([canvas], engine.manifest.input))
            most = max(most, chain_length(found, iou))
    if most > MOST_ROUNDS:
        raise ExportError(
            f"{path}: matrix NMS has not converged after {MOST_ROUNDS} rounds on these pictures; "
            "use nms: graph or host"
        )
    return min(MOST_ROUNDS, most + max(4, most // 2))  # other pictures may have longer chains


def chain_length(candidates: Candidates, iou: float) -> int:
    """Return the first T whose boxes equal those of T + 1, over all pictures; 65 if none."""
    longest = 1
    for boxes, scores, labels in zip(
        candidates.boxes, candidates.scores, candidates.labels, strict=True
    ):
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] > 0]
        suppress = np.triu(overlapping(boxes[order], labels[order], iou), k=1).astype(np.float32)
        alive = np.ones(len(order), dtype=np.float32)
        for turn in range(MOST_ROUNDS + 1):
            following = (alive @ suppress < 0.5).astype(np.float32)
            if (following == alive).all():
                longest = max(longest, turn)
                break
            alive = following
        else:
            return MOST_ROUNDS + 1
    return longest
