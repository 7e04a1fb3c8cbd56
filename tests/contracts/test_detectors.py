"""What every member of the detectors' union must keep."""

import pytest
import torch

from compress.batch import Batch
from compress.detector import FEATURES, Detector
from compress.detectors.small_pairs import NAMED
from tests.compress.detectors.small import (
    CLASSES,
    EACH_FAMILY,
    SIZE,
    small_batch,
    small_detector,
    spread,
)

pytestmark = pytest.mark.usefixtures("small_rtdetr")


@pytest.fixture(params=EACH_FAMILY)
def family(request):
    return request.param


def everything(detector):
    return detector.spec.provides


def test_outputs_match_the_spec(family):
    detector, batch = small_detector(family), small_batch()
    spec, outputs = detector.spec, detector(batch, everything(detector))
    assert [f.shape[1] for f in outputs.features] == list(spec.channels)
    assert [SIZE[1] // f.shape[3] for f in outputs.features] == list(spec.strides)
    assert [f.shape[1] for f in outputs.backbone] == list(spec.backbone_channels)
    assert [SIZE[1] // f.shape[3] for f in outputs.backbone] == list(spec.backbone_strides)
    assert (outputs.dense is not None) == ("dense" in spec.provides)
    if outputs.dense is None:
        return
    dense = outputs.dense
    places = dense.class_logits.shape[1]
    assert dense.class_logits.shape == (2, places, 1 if "rois" in spec.provides else CLASSES)
    assert dense.deltas.shape == dense.boxes.shape == (2, places, 4)
    mask = dense.assign([t.boxes for t in batch.targets])
    assert mask.shape == (2, places)
    assert mask.dtype == torch.bool
    assert mask.any(dim=1).all()
    assert spec.locations
    assert (dense.dfl_logits is not None) == ("dfl" in spec.provides)


def test_equal_seeds_give_equal_weights(family):
    first, second = small_detector(family), small_detector(family)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("counts", [(0, 2), (0, 0)])
def test_pictures_without_boxes_give_finite_losses_and_a_gradient_to_every_weight(family, counts):
    detector = small_detector(family)
    losses = detector(small_batch(counts)).task_losses
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("features_alone", [False, True])
def test_a_batch_without_labelled_pictures_has_zero_losses_attached_to_the_graph(
    family, features_alone
):
    detector = small_detector(family)
    wanted = FEATURES if features_alone else everything(detector)
    outputs = detector(small_batch((0, 0), labeled=0), wanted)
    total = torch.stack(list(outputs.task_losses.values())).sum()
    assert total.item() == 0
    total.backward()
    assert len(outputs.features[0]) == 2


def test_unlabelled_pictures_leave_the_task_losses_alone(family):
    # a BatchNorm that learns sees the whole batch by design
    detector = small_detector(family, norm="group", strides=(8, 16))
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    batch = small_batch((2, 0), labeled=1)
    batch = batch._replace(images=batch.images.requires_grad_())
    alone = Batch(batch.images[:1], batch.targets[:1], batch.sizes[:1], (0,), 1)
    torch.manual_seed(3)  # the two-stage samplers draw
    both = detector(batch).task_losses
    torch.manual_seed(3)
    one = detector(alone).task_losses
    for name, loss in both.items():
        torch.testing.assert_close(loss, one[name], rtol=1e-4, atol=1e-6)
    torch.stack(list(both.values())).sum().backward()
    assert batch.images.grad is not None
    assert batch.images.grad[0].abs().sum() > 0
    assert batch.images.grad[1].abs().sum() == 0


def test_evaluation_does_not_see_the_order_of_the_batch(family):
    detector = spread(small_detector(family)).eval()
    assert isinstance(detector, Detector)
    images = small_batch((0, 0, 0)).images
    with torch.no_grad():
        forth, back = detector.candidates(images), detector.candidates(images.flip(0))
    torch.testing.assert_close(forth.scores, back.scores.flip(0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(forth.boxes, back.boxes.flip(0), rtol=1e-4, atol=1e-3)
    assert torch.equal(forth.labels, back.labels.flip(0))


def test_features_alone_run_no_head(family):
    detector = small_detector(family).eval()

    def fail(*_):
        raise AssertionError("the head ran")

    for module in detector.head.modules():
        module.register_forward_pre_hook(fail)
    outputs = detector(small_batch())
    assert outputs.dense is None
    assert outputs.rois is None
    assert outputs.task_losses == {}


def test_candidates_are_clipped_and_of_a_fixed_number(family):
    detector = spread(small_detector(family)).eval()
    assert isinstance(detector, Detector)
    with torch.no_grad():
        found = detector.candidates(small_batch().images)
        more = detector.candidates(small_batch((0, 0, 0)).images)
    assert found.boxes.shape[1] == more.boxes.shape[1] <= 1000
    assert found.labels.dtype == torch.int32
    assert found.labels.min() >= 0
    assert found.labels.max() < CLASSES
    assert ((found.scores == -1) | ((found.scores >= 0) & (found.scores <= 1))).all()
    assert found.boxes.min() >= 0
    assert found.boxes[..., 0::2].max() <= SIZE[1]
    assert found.boxes[..., 1::2].max() <= SIZE[0]
    assert (found.scores.diff(dim=1) <= 0).all()


def test_bf16_autocast_gives_float32_losses_near_the_full_ones(family):
    detector, batch = small_detector(family), small_batch()
    torch.manual_seed(3)
    full = detector(batch, everything(detector)).task_losses
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = detector(batch, everything(detector))
    if "dense" in detector.spec.provides:
        assert outputs.dense.class_logits.dtype == outputs.dense.boxes.dtype == torch.float32
    total = torch.stack(list(outputs.task_losses.values())).sum()
    torch.testing.assert_close(total, torch.stack(list(full.values())).sum(), rtol=0.1, atol=0.02)
    for name, loss in outputs.task_losses.items():
        assert loss.dtype == torch.float32
        if "dense" in detector.spec.provides:  # queries are matched anew, and may go elsewhere
            torch.testing.assert_close(loss, full[name], rtol=0.1, atol=0.02)
    total.backward()


def test_pictures_of_another_size_are_refused(family):
    with pytest.raises(ValueError, match="built for maps"):
        small_detector(family)(small_batch(size=(96, 96)))


def test_the_whole_state_is_backbone_neck_and_head(family):
    names = {name.split(".")[0] for name in small_detector(family).state_dict()}
    assert {"backbone", "head"} <= names <= {"backbone", "neck", "head"}  # a neck may have no state


def test_channels_last_gives_the_same_losses(family):
    detector, batch = small_detector(family), small_batch()
    torch.manual_seed(3)
    plain = detector(batch).task_losses
    detector = small_detector(family).to(memory_format=torch.channels_last)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    torch.manual_seed(3)
    for name, loss in detector(batch._replace(images=images)).task_losses.items():
        torch.testing.assert_close(loss, plain[name], rtol=1e-4, atol=1e-5)


class Graph(torch.nn.Module):
    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, images):
        return self.detector.candidates(images)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_onnx_graph_gives_torchs_candidates_at_any_batch(family, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    detector = spread(small_detector(family)).eval()
    torch.onnx.export(
        Graph(detector),
        (small_batch().images,),
        tmp_path / "model.onnx",
        input_names=["images"],
        output_names=["boxes", "scores", "labels"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1, max=64)}},
        dynamo=True,
        opset_version=18,
        external_data=False,
        custom_translation_table=getattr(detector, "onnx_translations", None),
    )
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    for count in (1, 3):
        images = small_batch((0,) * count).images
        boxes, scores, labels = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            wanted = detector.candidates(images)
        apart = 1e-3 if family in NAMED else 1e-5  # a hundred layers round more often
        torch.testing.assert_close(torch.from_numpy(scores), wanted.scores, rtol=1e-4, atol=apart)
        # places of nearly equal scores may change
        same = torch.isclose(torch.from_numpy(boxes), wanted.boxes, rtol=1e-3, atol=1e-2)
        same = same.all(dim=2) & (torch.from_numpy(labels) == wanted.labels)
        if family in NAMED:  # and so do many of a random network's: each box is somewhere
            apart_px = torch.cdist(torch.from_numpy(boxes), wanted.boxes, p=float("inf"))
            same = (apart_px < 0.05).any(dim=2)
        assert same.float().mean() > 0.97
