import numpy as np
import onnx
import pytest

from export.artifact.manifest import NmsSpec, read_manifest
from export.detections import Candidates, select_detections
from export.engine import open_engine
from export.errors import ExportError
from export.graph.nms import chain_length, put_nms_inside, with_nms
from export.pictures.images import to_tensor
from tests.export.test_engine import copied
from tests.export.tiny import canvases

COUNT, CLASSES = 60, 3


def passing(batch: int | str) -> onnx.ModelProto:
    """A graph whose candidates are its inputs."""
    return onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["" : 18]>
        g (float[{batch},{COUNT},4] b, float[{batch},{COUNT}] s, int32[{batch},{COUNT}] l) =>
          (float[{batch},{COUNT},4] boxes, float[{batch},{COUNT}] scores,
           int32[{batch},{COUNT}] labels)
        {{ boxes = Identity(b) scores = Identity(s) labels = Identity(l) }}"""
    )


def crowd(seed: int, batch: int = 2) -> Candidates:
    """Unsorted boxes that overlap a lot, with ties, padding and boxes without area."""
    generator = np.random.default_rng(seed)
    corners = generator.integers(0, 40, (batch, COUNT, 2))
    sides = generator.integers(0, 30, (batch, COUNT, 2))
    scores = generator.integers(1, 40, (batch, COUNT)) / 40
    scores[:, ::9] = -1
    return Candidates(
        np.concatenate([corners, corners + sides], axis=-1).astype(np.float32),
        scores.astype(np.float32),
        generator.integers(0, CLASSES, (batch, COUNT)).astype(np.int32),
    )


def run(model: onnx.ModelProto, given: Candidates) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = ["num", "boxes", "scores", "labels"]
    inputs = {"b": given.boxes, "s": given.scores, "l": given.labels}
    return dict(zip(names, session.run(names, inputs), strict=True))


@pytest.mark.parametrize("batch", [2, "batch"])
@pytest.mark.parametrize("mode", ["graph", "matrix"])
@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_detections_are_those_of_the_host(mode, batch, threshold):
    host = NmsSpec(iou=0.45, max_detections=20)
    for seed in range(6):
        given = crowd(seed)
        spec = NmsSpec(mode=mode, iou=0.45, max_detections=20, rounds=chain_length(given, 0.45))
        model = with_nms(passing(batch), spec, CLASSES)
        onnx.checker.check_model(model, full_check=True)
        out = run(model, given)
        inside = Candidates(out["boxes"], out["scores"], out["labels"])
        expected = select_detections(given, host, threshold)
        found = select_detections(inside, spec, threshold)
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.scores.tolist() == theirs.scores.tolist()
            assert ours.boxes.tolist() == theirs.boxes.tolist()
            assert ours.labels.tolist() == theirs.labels.tolist()
        if threshold == 0:
            assert out["num"].tolist() == [len(theirs.scores) for theirs in expected]
        assert out["num"].dtype == out["labels"].dtype == np.int32


def test_beyond_the_count_scores_and_labels_are_minus_one():
    given = crowd(0, batch=1)
    given.scores[:] = -1
    given.scores[0, 5] = 0.5
    out = run(with_nms(passing(1), NmsSpec(mode="graph", max_detections=4), CLASSES), given)
    assert out["num"].tolist() == [1]
    assert out["scores"].tolist() == [[0.5, -1, -1, -1]]
    assert out["labels"][0, 1:].tolist() == [-1, -1, -1]
    assert out["boxes"].shape == (1, 4, 4)


def test_the_outputs_have_no_more_rows_than_candidates():
    spec = NmsSpec(mode="graph", max_detections=100)
    assert run(with_nms(passing(1), spec, CLASSES), crowd(0, batch=1))["scores"].shape == (1, COUNT)


# A chain: each box overlaps the next by 6 of 14 or so, better ones first. Greedy keeps every
# second; each of n links takes one more round to be known.
def chain(links: int) -> Candidates:
    left = np.arange(links, dtype=np.float32) * 4
    boxes = np.stack([left, 0 * left, left + 10, 0 * left + 1], axis=-1)
    scores = np.linspace(0.9, 0.1, links, dtype=np.float32)
    return Candidates(boxes[None], scores[None], np.zeros((1, links), dtype=np.int32))


@pytest.mark.parametrize("links", [1, 2, 5, 12])
def test_the_rounds_needed_are_the_length_of_the_longest_chain(links):
    assert chain_length(chain(links), 0.4) == max(1, links - 1)


def test_a_suppression_chain_longer_than_the_rounds_is_an_error():
    assert chain_length(chain(80), 0.4) == 65


@pytest.mark.parametrize("mode", ["graph", "matrix"])
@pytest.mark.parametrize("batch", ["static", "dynamic"])
def test_an_artifact_gets_its_nms_inside(request, tmp_path, mode, batch):
    model = request.getfixturevalue(f"{batch}_model")
    path = copied(model, tmp_path)
    put_nms_inside(path, mode, canvases(2))
    manifest = read_manifest(path.with_suffix(".json"))
    assert manifest.nms.mode == mode
    assert (manifest.nms.rounds is not None) == (mode == "matrix")
    images = to_tensor(canvases(1 if batch == "static" else 3))
    with open_engine(model, threads=1) as host, open_engine(path, threads=1) as inside:
        expected = select_detections(host.candidates(images), host.manifest.nms, 0.01)
        found = select_detections(inside.candidates(images), inside.manifest.nms, 0.01)
    assert [f.scores.tolist() for f in found] == [e.scores.tolist() for e in expected]
    assert [f.boxes.tolist() for f in found] == [e.boxes.tolist() for e in expected]


@pytest.mark.parametrize("mode", ["graph", "matrix"])
def test_the_graph_is_one_file_of_plain_operators(dynamic_model, tmp_path, mode):
    path = copied(dynamic_model, tmp_path)
    put_nms_inside(path, mode, canvases(2))
    model = onnx.load(str(path))
    assert not {node.op_type for node in model.graph.node} & {"NonZero", "Loop", "If"}
    assert {opset.domain for opset in model.opset_import} == {""}
    assert [value.name for value in model.graph.output] == ["num", "boxes", "scores", "labels"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.json", "model.onnx"]


def test_nms_is_put_inside_once(dynamic_model, tmp_path):
    path = copied(dynamic_model, tmp_path)
    with pytest.raises(ExportError, match="needs real pictures"):
        put_nms_inside(path, "matrix", [])
    put_nms_inside(path, "graph", [])
    with pytest.raises(ExportError, match="its NMS is graph already"):
        put_nms_inside(path, "matrix", canvases(1))
