from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compress.teaching.classes import in_section
from compress.teaching.formats import FORMATS
from compress.teaching.formats.graph import Fit, Graph, Pixels
from compress.teaching.onnx.detector import choose_format
from export.artifact.manifest import NmsSpec
from export.detections import Candidates, select_detections
from export.errors import ExportError, RecipeError

TEACHER = in_section("teacher")
SIDE = 64  # 8 x 8, 4 x 4 and 2 x 2 cells: 84 in all; with stride 64 there are 85
CELLS = 84


def graph(
    outputs: Mapping[str, NDArray[np.generic]],
    *,
    inputs: tuple[str, ...] = ("images",),
    metadata: Mapping[str, str] | None = None,
    named: int | None = None,
) -> Graph:
    return Graph(
        Path("x.onnx"), inputs[0], inputs, SIDE, SIDE, outputs, metadata or {}, named, None, "none"
    )


def zeros(*shape: int) -> NDArray[np.float32]:
    return np.zeros(shape, dtype=np.float32)


def best(fit: Fit, outputs: Mapping[str, NDArray[np.generic]]) -> tuple[list[float], float, int]:
    """Box, score and label of the best detection."""
    (found,) = select_detections(fit.decode(outputs), fit.nms, 0.01)
    return found.boxes[0].tolist(), float(found.scores[0]), int(found.labels[0])


def ultralytics_cells() -> tuple[dict[str, Any], dict[str, Any]]:
    output = zeros(1, 4 + 3, CELLS)
    output[0, :, 7] = [32, 16, 20, 10, 0, 0.9, 0.2]
    return {"output0": output}, {}


def ultralytics_rows() -> tuple[dict[str, Any], dict[str, Any]]:
    output = zeros(1, 300, 6)
    output[0, 4] = [22, 11, 42, 21, 0.9, 1]
    return {"output0": output}, {
        "metadata": {"author": "Ultralytics", "names": "{0: 'a', 1: 'b', 2: 'c'}"}
    }


def ultralytics_rtdetr() -> tuple[dict[str, Any], dict[str, Any]]:
    output = zeros(1, 300, 6)
    output[0, 4] = [0.5, 0.25, 20 / SIDE, 10 / SIDE, 0.9, 1]
    return {"output0": output}, {
        "metadata": {
            "author": "Ultralytics",
            "head": "RTDETRDecoder",
            "names": "{0: 'a', 1: 'b', 2: 'c'}",
        }
    }


def ultralytics_older_rtdetr() -> tuple[dict[str, Any], dict[str, Any]]:
    output = zeros(1, 300, 4 + 3)
    output[0, 4] = [0.5, 0.25, 20 / SIDE, 10 / SIDE, 0.1, 0.9, 0]
    return {"output0": output}, {
        "metadata": {
            "description": "Ultralytics rtdetr-l model",
            "names": "{0: 'a', 1: 'b', 2: 'c'}",
        }
    }


def bins(*distances: int) -> NDArray[np.float32]:
    """Logits of 4 x 8 bins whose softmax is all but 1 at the given distances."""
    logits = zeros(4, 8)
    logits[range(4), distances] = 40
    return logits.reshape(-1)


def nanodet_levels() -> tuple[dict[str, Any], dict[str, Any]]:
    outputs = {}
    for level, cells in enumerate((64, 16, 4)):
        outputs[f"cls{level}"] = zeros(1, cells, 3)
        outputs[f"dis{level}"] = zeros(1, cells, 32)
    # stride 16, row 1, column 1: the middle is (24, 24); 1, 0, 1, 0 strides to the edges
    outputs["cls1"][0, 5, 1] = 0.9
    outputs["dis1"][0, 5] = bins(1, 0, 1, 0)
    return outputs, {}


def nanodet_plus() -> tuple[dict[str, Any], dict[str, Any]]:
    output = zeros(1, CELLS + 1, 3 + 32)
    # stride 16, row 1, column 1: the corner is (16, 16)
    output[0, 64 + 5, 1] = 0.9
    output[0, 64 + 5, 3:] = bins(1, 0, 1, 2)
    return {"output": output}, {}


def yolox_raw() -> tuple[dict[str, Any], dict[str, Any]]:
    output = zeros(1, CELLS, 5 + 3)
    output[..., :4] = -1
    # stride 16, row 1, column 1: ((1 + 1) * 16, (1 + 0) * 16), sides e^0.5 * 16
    output[0, 64 + 5] = [1, 0, 0.5, 0.5, 0.9, 0, 1, 0]
    return {"output": output}, {}


def yolox_decoded() -> tuple[dict[str, Any], dict[str, Any]]:
    output = zeros(1, CELLS, 5 + 3)
    output[..., :4] = 40
    output[0, 64 + 5] = [32, 16, 20, 10, 0.9, 0, 1, 0]
    return {"output": output}, {}


def yolov5() -> tuple[dict[str, Any], dict[str, Any]]:
    output = zeros(1, 3 * CELLS, 5 + 3)
    output[0, 9] = [32, 16, 20, 10, 0.9, 0, 1, 0]
    return {"output0": output, "map": zeros(1, 3, 8, 8, 8)}, {}


def detr_outputs(logits: int, names: tuple[str, str]) -> dict[str, Any]:
    boxes, scores = zeros(1, 100, 4), zeros(1, 100, logits) - 40
    boxes[0, 9] = [0.5, 0.25, 20 / SIDE, 10 / SIDE]
    return {names[0]: scores, names[1]: boxes}


def detr() -> tuple[dict[str, Any], dict[str, Any]]:
    outputs = detr_outputs(4, ("logits", "pred_boxes"))
    outputs["logits"][0, 9] = np.log([0.04, 0.9, 0.03, 0.03])
    outputs["logits"][0, :9, 3] = outputs["logits"][0, 10:, 3].max() + 40  # no object
    return outputs, {"named": 3}


def detr_sigmoid() -> tuple[dict[str, Any], dict[str, Any]]:
    outputs = detr_outputs(3, ("logits", "pred_boxes"))
    outputs["logits"][0, 9, 1] = np.log(0.9 / 0.1)
    return outputs, {"named": 3}


def rfdetr() -> tuple[dict[str, Any], dict[str, Any]]:
    outputs = detr_outputs(4, ("labels", "dets"))
    outputs["labels"][0, 9, 1] = np.log(0.9 / 0.1)
    outputs["labels"][0, 3, 3] = 9  # after the classes: never used
    return outputs, {"named": 3}


def dfine() -> tuple[dict[str, Any], dict[str, Any]]:
    boxes, scores, labels = zeros(1, 300, 4), zeros(1, 300), np.zeros((1, 300), np.int64)
    boxes[0, 0], scores[0, 0], labels[0, 0] = [22, 11, 42, 21], 0.9, 1
    given = {"inputs": ("images", "orig_target_sizes"), "named": 3}
    return {"labels": labels, "boxes": boxes, "scores": scores}, given


def mmdeploy() -> tuple[dict[str, Any], dict[str, Any]]:
    dets, labels = zeros(1, 5, 5), np.ones((1, 5), np.int64)
    dets[0, 0] = [22, 11, 42, 21, 0.9]
    return {"dets": dets, "labels": labels}, {"named": 3}


BOX = [22, 11, 42, 21]
SIDES = 16 * float(np.exp(0.5)) / 2


@pytest.mark.parametrize(
    ("made", "name", "box"),
    [
        (ultralytics_cells, "ultralytics", BOX),
        (ultralytics_rows, "ultralytics", BOX),
        (ultralytics_rtdetr, "ultralytics", BOX),
        (ultralytics_older_rtdetr, "ultralytics", BOX),
        (nanodet_levels, "nanodet", [8, 24, 40, 24]),
        (nanodet_plus, "nanodet", [0, 16, 32, 48]),
        (yolox_raw, "yolox", [32 - SIDES, 16 - SIDES, 32 + SIDES, 16 + SIDES]),
        (yolox_decoded, "yolox", BOX),
        (yolov5, "yolov5", BOX),
        (detr, "detr", BOX),
        (detr_sigmoid, "detr-sigmoid", BOX),
        (rfdetr, "detr-sigmoid", BOX),
        (dfine, "dfine", BOX),
        (mmdeploy, "mmdeploy", BOX),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_format_is_found_by_its_outputs_and_gives_the_box(
    made: Any, name: str, box: list[float]
) -> None:
    outputs, given = made()
    found, fit = choose_format(graph(outputs, **given), None, TEACHER)
    assert found == name
    assert fit.num_classes == 3 or fit.num_classes == given.get("named")
    place, score, label = best(fit, outputs)
    assert place == pytest.approx(box, abs=1e-3)
    assert score == pytest.approx(0.9, abs=1e-5)
    assert label == 1


def test_two_pictures_of_a_pass_are_read_apart() -> None:
    outputs, _ = nanodet_levels()
    both = {name: np.repeat(one, 2, axis=0) for name, one in outputs.items()}
    both["cls1"][0] = 0
    both["cls1"][0, 0, 2] = 0.7
    _, fit = choose_format(graph(outputs), None, TEACHER)
    first, second = select_detections(fit.decode(both), fit.nms, 0.01)
    assert (first.labels.tolist(), second.labels.tolist()) == ([2], [1])


def test_without_names_detr_and_its_successors_cannot_be_told_apart() -> None:
    outputs, _ = detr()
    with pytest.raises(ExportError, match=r"2 formats read .*detr: .*detr-sigmoid: .*format, or"):
        choose_format(graph(outputs), None, TEACHER)
    assert choose_format(graph(outputs), "detr", TEACHER)[1].num_classes == 3
    assert choose_format(graph(outputs), "detr-sigmoid", TEACHER)[1].num_classes == 4


def test_what_no_format_reads_is_said_with_all_of_them_and_why() -> None:
    with pytest.raises(ExportError) as caught:
        choose_format(graph({"features": zeros(1, 12, 8, 8)}), None, TEACHER)
    said = str(caught.value)
    assert (
        "x.onnx: found images (64 x 64 pixels) -> features 1x12x8x8, which no format reads" in said
    )
    assert all(f"{name}: " in said for name in FORMATS)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "slimdet"])
def test_a_format_that_is_named_and_does_not_fit_says_why(name: str) -> None:
    with pytest.raises(ExportError, match=rf"teacher\.format: {name} does not read it: \w+"):
        choose_format(graph({"features": zeros(1, 12, 8, 8)}), name, TEACHER)


def test_another_task_of_ultralytics_is_named() -> None:
    outputs, _ = ultralytics_cells()
    with pytest.raises(ExportError, match="made by Ultralytics for the task 'segment'"):
        choose_format(graph(outputs, metadata={"task": "segment"}), "ultralytics", TEACHER)


@pytest.mark.parametrize("made", [ultralytics_cells, nanodet_levels, yolox_raw, yolov5, detr])
def test_another_number_of_class_names_is_refused_with_both_numbers(made: Any) -> None:
    with pytest.raises(RecipeError, match=r"teacher\.classes: 17 names, and x\.onnx has 3 classes"):
        choose_format(graph(made()[0], named=17), None, TEACHER)


def test_metadata_that_is_no_list_of_names_gives_none() -> None:
    outputs, _ = ultralytics_cells()
    for said in ("{0: 'a'", "__import__('os')", "{1: 'a', 2: 'b', 3: 'c'}", "7"):
        fit = FORMATS["ultralytics"](graph(outputs, metadata={"names": said}))
        assert isinstance(fit, Fit)
        assert fit.classes == ()


def test_a_toy_format_needs_one_function_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(graph: Graph) -> Fit | str:
        if set(graph.outputs) != {"where", "what"}:
            return "no outputs where and what"

        def decode(outputs: Mapping[str, NDArray[np.generic]]) -> Candidates:
            boxes, scores = outputs["where"].astype(np.float32), outputs["what"].astype(np.float32)
            return Candidates(boxes, scores, np.zeros(scores.shape, np.int32))

        return Fit("where and what", 1, Pixels(), NmsSpec(mode="none"), decode)

    outputs = {"where": zeros(1, 2, 4) + BOX, "what": zeros(1, 2) + 0.9}
    with pytest.raises(ExportError, match="which no format reads"):
        choose_format(graph(outputs), None, TEACHER)
    monkeypatch.setitem(FORMATS, "toy", read)
    name, fit = choose_format(graph(outputs), None, TEACHER)
    assert name == "toy"
    assert best(fit, outputs)[0] == BOX
