"""A new detector family is one file and one entry of the union: it is trained and exported."""

import json

import pytest

from tests.contracts.checkout import Checkout, copy_to

TOY = '''
"""Toy: one location per cell of one level, a class score and four distances in strides."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.batch import Targets, boxes_per_image
from compress.detector import Candidates, Dense, DetectorSpec
from compress.detectors.parts.assignment import joined_matches
from compress.detectors.parts.dense import OneStage, Raw
from compress.detectors.parts.gfl_losses import distances_to_boxes
from compress.detectors.parts.selection import dense_candidates
from compress.detectors.parts.settings import DetectorSettings, build_trunk, check_maps
from compress.detectors.parts.towers import flatten_cells


class ToyConfig(DetectorSettings):
    """Settings of a toy."""

    type: Literal["toy"]

    def build(self, num_classes, input_size):
        return Toy(self, num_classes, input_size)


class Toy(OneStage):
    """A pyramid and one convolution."""

    def __init__(self, config, num_classes, input_size):
        super().__init__()
        trunk = build_trunk(config, input_size, finest=8, coarsest=32, extra="pool")
        self.input_size, self.pre_nms, self.map_sizes = input_size, config.pre_nms, trunk.map_sizes
        self.backbone, self.neck, self.num_classes = trunk.backbone, trunk.neck, num_classes
        self.head = nn.Conv2d(config.width, num_classes + 4, 1)
        self.level_counts = [height * width for height, width in trunk.map_sizes]
        centres, strides = [], []
        for (height, width), stride in zip(trunk.map_sizes, trunk.strides):
            y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
            centres.append((torch.stack((x.flatten(), y.flatten()), dim=1) + 0.5) * stride)
            strides.append(torch.full((height * width, 1), float(stride)))
        self.register_buffer("centres", torch.cat(centres), persistent=False)
        self.register_buffer("strides", torch.cat(strides), persistent=False)
        half = self.strides / 2
        anchors = torch.cat((self.centres - half, self.centres + half), dim=1)
        self.register_buffer("anchors", anchors, persistent=False)
        self.spec = DetectorSpec(
            family="toy",
            num_classes=num_classes,
            channels=(config.width,) * len(trunk.strides),
            strides=trunk.strides,
            backbone_channels=self.backbone.channels,
            backbone_strides=self.backbone.strides,
            provides=frozenset({"features", "backbone", "anchors", "dense", "task"}),
            locations="cells",
        )

    def predict(self, features, wanted):
        flat = flatten_cells([self.head(one) for one in features], self.num_classes + 4).float()
        return {"scores": flat[..., :-4], "distances": flat[..., -4:].exp()}, None

    def dense(self, raw: Raw) -> Dense:
        boxes = distances_to_boxes(raw["distances"], self.centres, self.strides)
        return Dense(raw["scores"], raw["distances"], boxes, self._assign, match=self._match_all)

    def _match_all(self, targets: Sequence[Targets]) -> Tensor:
        return self._match(boxes_per_image(targets))

    def _inside(self, boxes: Tensor) -> Tensor:
        """The first box that contains each centre, (P,); -1 for none."""
        if len(boxes) == 0:
            return torch.full((len(self.centres),), -1)
        edges = torch.cat(
            (self.centres[:, None] - boxes[:, :2], boxes[:, 2:] - self.centres[:, None]), dim=2
        )
        inside = edges.amin(dim=2) > 0
        return torch.where(inside.any(dim=1), inside.float().argmax(dim=1), -1)

    def _match(self, boxes: Sequence[Tensor]) -> Tensor:
        return joined_matches([self._inside(own) for own in boxes], boxes)

    def _assign(self, boxes: Sequence[Tensor]) -> Tensor:
        return self._match(boxes) >= 0

    def losses(self, raw: Raw, targets: Sequence[Targets]) -> dict[str, Tensor]:
        if not targets:
            return {"class": raw["scores"].sum(), "box": raw["distances"].sum()}
        matched = self._match(boxes_per_image(targets))
        positive = matched >= 0
        boxes = torch.cat([target.boxes for target in targets])
        labels = torch.cat([target.labels for target in targets])
        wanted = torch.zeros_like(raw["scores"])
        wanted[positive] = functional.one_hot(labels[matched[positive]], self.num_classes).float()
        own = distances_to_boxes(raw["distances"], self.centres, self.strides)[positive]
        apart = (own - boxes[matched[positive]]).abs().sum() / max(1, int(positive.sum()))
        return {
            "class": functional.binary_cross_entropy_with_logits(raw["scores"], wanted),
            "box": 0.01 * apart + 0 * raw["distances"].sum(),
        }

    def candidates(self, images: Tensor) -> Candidates:
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        raw, _ = self.predict(features, frozenset())
        scores = raw["scores"].sigmoid()
        return dense_candidates(
            scores, raw["distances"], self.level_counts, self.pre_nms, self._decode, self.input_size
        )

    def _decode(self, distances: Tensor, locations: Tensor) -> Tensor:
        return distances_to_boxes(distances, self.centres[locations], self.strides[locations])
'''

STEP = """
import json
import torch
from compress.distillation.distiller import Distiller
from compress.losses.mse import MseConfig
from compress.detectors.small_pairs import small_pair
from tests.compress.detectors.small import small_batch

student, teacher = small_pair("toy")
objective = Distiller(student, teacher, [MseConfig(type="mse")]).train()
optimizer = torch.optim.SGD(student.parameters(), lr=0.01)
sums = []
for _ in range(5):
    terms = objective(small_batch())
    total = torch.stack(list(terms.values())).sum()
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
    sums.append(total.item())
print(json.dumps({"terms": sorted(terms), "sums": sums}))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    return with_detector(copy_to(tmp_path_factory.mktemp("toy_detector")), TOY)


def with_detector(made: Checkout, text: str) -> Checkout:
    """Add a family to a copy of the packages: one file and one entry of the union."""
    made.add_toy("compress/detectors", text, "ssd", "SsdConfig")
    return made


@pytest.mark.slow
def test_the_new_family_is_trained_with_a_distillation_loss(checkout: Checkout) -> None:
    found = json.loads(checkout.python("-c", STEP))
    assert found["terms"] == ["mse/feature", "task/box", "task/class"]
    assert found["sums"][-1] < found["sums"][0]


@pytest.mark.slow
def test_the_contract_tests_and_the_onnx_export_cover_the_new_family_without_a_change(
    checkout: Checkout,
) -> None:
    tests = "tests/contracts/test_detectors.py"
    said = checkout.python(
        "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", tests, "-k", "toy"
    )
    assert "PASSED tests/contracts/test_detectors.py::test_the_onnx_graph" in said
    assert " failed" not in said
