"""YOLOv8, YOLO11 and YOLO26 of the package `ultralytics` (extra `yolo`, AGPL-3.0)."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional

from compress.batch import Targets
from compress.detector import Candidates, Dense, TowerChannels, Towers, Wanted
from compress.detectors.parts.dense import OneStage, Raw
from compress.detectors.parts.gfl_losses import distances_to_boxes
from compress.detectors.parts.selection import best_candidates, dense_candidates
from compress.detectors.parts.settings import (
    cell_centres,
    check_maps,
    choose_anchor_scale,
)
from compress.detectors.parts.towers import flatten_cells
from compress.detectors.ultralytics_parts.package import YOLO_MODELS
from compress.detectors.ultralytics_parts.settings import NamedModel
from compress.detectors.ultralytics_parts.task_aligned import (
    Cells,
    assign,
    distances_of,
    matched,
    task_aligned_losses,
)
from compress.detectors.ultralytics_parts.towers import depth, finish_tower, run_tower, widths
from compress.detectors.ultralytics_parts.trunk import UltralyticsDetector, build_ultralytics
from export.config import ClashError

TWO_BRANCHES = "yolo26"
MANY, ONE = (10, 10), (7, 1)  # locations that an object is offered, and that it keeps
MANY_FIRST, MANY_LAST = 0.8, 0.1  # weight of the one-to-many loss at the first and last step
MOST_BOXES = 300  # of a head without NMS
CLASS_ROWS = re.compile(r"head\.(one2one_)?cv3\.\d+\.2\.(weight|bias)")


class YoloConfig(NamedModel):
    """Settings of a YOLO; its strides are 8, 16 and 32."""

    known: ClassVar[tuple[str, ...]] = YOLO_MODELS
    large: ClassVar[dict[str, int]] = {"l": 30_000_000, "x": 65_000_000}

    type: Literal["yolo"]
    pre_nms: int = Field(default=1000, ge=1, le=3840)  # candidates kept per level
    # branch of a YOLO26 that is evaluated and exported: one2one needs no NMS; null: one2one
    head: Literal["one2many", "one2one"] | None = None

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "Yolo":
        """Build a detector with random weights for inputs of (height, width) pixels."""
        return Yolo(self, num_classes, input_size)

    @field_validator("head")
    @classmethod
    def _has_the_branch(cls, head: str | None, info: ValidationInfo) -> str | None:
        model = info.data.get("model")  # absent where it is itself wrong
        if head is not None and model is not None and not model.startswith(TWO_BRANCHES):
            raise ClashError(
                f"{model} has one branch, and {head} chooses one of the two of a {TWO_BRANCHES}; "
                "leave head out",
                *((), ("..", "model")),
            )
        return head


class Yolo(UltralyticsDetector, OneStage):
    """A model of the package, split into backbone, neck and head."""

    centres: Tensor
    steps: Tensor

    def __init__(self, config: YoloConfig, num_classes: int, input_size: tuple[int, int]) -> None:
        trunk = build_ultralytics(config.model, num_classes, input_size, config.bn_momentum)
        super().__init__(config, num_classes, input_size, trunk)
        self.pre_nms = config.pre_nms
        self.level_counts = [height * width for height, width in trunk.map_sizes]
        self.bins = int(self.head.reg_max)
        self.head.dfl = nn.Identity()  # a constant; boxes are decoded here
        self.two_branches = getattr(self.head, "one2one_cv2", None) is not None
        self.nms_free = self.two_branches and config.head != "one2many"
        self._begin(trunk.strides)
        centres, steps = cell_centres(trunk.map_sizes, trunk.strides)
        half = steps * choose_anchor_scale(input_size) / 2
        self.register_buffer("centres", centres, persistent=False)
        self.register_buffer("steps", steps, persistent=False)
        anchors = torch.cat((centres - half, centres + half), dim=1)
        self.register_buffer("anchors", anchors, persistent=False)
        self.many = MANY_FIRST
        self.spec = replace(
            self.spec,
            provides=self._provides(),
            locations=(
                f"centre of each cell of strides {list(trunk.strides)}, "
                f"input {input_size[0]}x{input_size[1]}, distances to the edges in strides"
            ),
            dfl_bins=self.bins if self.bins > 1 else 0,
            tower_depth=depth(self.head.cv3),
            tower_channels=TowerChannels(widths(self.head.cv3), widths(self.head.cv2)),
            nms_free=self.nms_free,
        )

    def _provides(self) -> Wanted:
        every: Wanted = frozenset({"features", "backbone", "anchors", "dense", "towers", "task"})
        return every | {"dfl"} if self.bins > 1 else every

    def _begin(self, strides: Sequence[int]) -> None:
        """Give the prediction layers the biases that training starts from."""
        self.head.stride = torch.tensor([float(stride) for stride in strides], device="cpu")
        self.head.bias_init()

    def at(self, step: int, total: int) -> None:
        """Move the weight of the one-to-many branch; see `Detector.at`."""
        left = 1 - step / max(1, total - 1)
        self.many = MANY_LAST + max(0.0, left) * (MANY_FIRST - MANY_LAST)

    def class_rows(self) -> frozenset[str]:
        """See `Detector.class_rows`: the last class layer of every level, of both branches."""
        return frozenset(name for name in self.state_dict() if CLASS_ROWS.fullmatch(name))

    def predict(self, features: Sequence[Tensor], wanted: Wanted) -> tuple[Raw, Towers | None]:
        """Run the head on L maps, both branches to train a YOLO26; see `OneStage`."""
        towers = None
        if "towers" in wanted:
            raw, towers = self._trace(features)
        else:
            raw = self._branch(features, "")
        if self.two_branches and (self.training or "task" in wanted):
            # as in the package, the one-to-one branch trains its own layers alone
            apart = self._branch([feature.detach() for feature in features], "one2one_")
            raw |= {f"one2one_{name}": value for name, value in apart.items()}
        return raw, towers

    def _trace(self, features: Sequence[Tensor]) -> tuple[Raw, Towers]:
        in_class, in_box = self.head.cv3, self.head.cv2

        def resume(index: int, class_maps: Sequence[Tensor], box_maps: Sequence[Tensor]) -> Dense:
            scores = finish_tower(in_class, index, class_maps)
            return self.dense(self._flat(scores, finish_tower(in_box, index, box_maps)))

        scores, boxes = run_tower(in_class, features), run_tower(in_box, features)
        raw = self._flat(scores.predictions, boxes.predictions)
        return raw, Towers(scores.maps, boxes.maps, resume, functional.silu)

    def _branch(self, features: Sequence[Tensor], branch: str) -> Raw:
        """Return `cls_logits` (B, P, K) and `box_logits` (B, P, 4 * bins), float32."""
        in_box, in_class = (getattr(self.head, f"{branch}{name}") for name in ("cv2", "cv3"))
        boxes = [layer(feature) for layer, feature in zip(in_box, features, strict=True)]
        scores = [layer(feature) for layer, feature in zip(in_class, features, strict=True)]
        return self._flat(scores, boxes)

    def _flat(self, scores: Sequence[Tensor], boxes: Sequence[Tensor]) -> Raw:
        return {
            "cls_logits": flatten_cells(scores, self.num_classes).float(),
            "box_logits": flatten_cells(boxes, 4 * self.bins).float(),
        }

    def _cells(self) -> Cells:
        return Cells(self.centres, self.steps, self.spec.strides, *self.input_size)

    def dense(self, raw: Raw) -> Dense:
        """Return the one-to-many branch's predictions as a loss takes them."""
        found = self._dense(raw["cls_logits"], raw["box_logits"], MANY)
        if "one2one_cls_logits" not in raw:
            return found
        one = self._dense(raw["one2one_cls_logits"], raw["one2one_box_logits"], ONE)
        return replace(found, one_to_one=one)

    def _dense(self, logits: Tensor, box_logits: Tensor, most: tuple[int, int]) -> Dense:
        distances = distances_of(box_logits, self.bins)
        boxes = distances_to_boxes(distances, self.centres, self.steps)
        scores, cells = logits.detach().sigmoid(), self._cells()

        def match(targets: Sequence[Targets]) -> Tensor:
            return matched(assign(scores, boxes, targets, cells, most), targets)

        def positive(instances: Sequence[Tensor]) -> Tensor:
            # boxes without labels: one class, whose score is the best of all
            alike = [Targets(own, own.new_zeros(len(own), dtype=torch.int64)) for own in instances]
            return assign(scores.amax(2, keepdim=True), boxes, alike, cells, most).positive

        return Dense(
            logits,
            distances,
            boxes,
            positive,
            box_logits if self.bins > 1 else None,
            match=match,
            level_counts=tuple(self.level_counts),
        )

    def losses(self, raw: Raw, targets: Sequence[Targets]) -> dict[str, Tensor]:
        """Return the losses of the package; see `OneStage`.

        A YOLO26 has those of both branches, whose weights move during the training from 0.8 and
        0.2 to 0.1 and 0.9.
        """
        cells = self._cells()
        many = task_aligned_losses(raw["cls_logits"], raw["box_logits"], targets, cells, MANY)
        if not self.two_branches:
            return many
        one = task_aligned_losses(
            raw["one2one_cls_logits"], raw["one2one_box_logits"], targets, cells, ONE
        )
        terms = {name: self.many * value for name, value in many.items()}
        return terms | {f"one2one_{name}": (1 - self.many) * v for name, v in one.items()}

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best (location, class) pairs; see `Detector.candidates`."""
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        raw = self._branch(features, "one2one_" if self.nms_free else "")
        logits, boxes = raw["cls_logits"], raw["box_logits"]
        if self.nms_free:
            found = best_candidates(logits, boxes, MOST_BOXES, self._decode, self.input_size)
        else:
            found = dense_candidates(
                logits, boxes, self.level_counts, self.pre_nms, self._decode, self.input_size
            )
        # the order of logits is that of scores, which only those that are kept need
        return found._replace(scores=found.scores.sigmoid())

    def _decode(self, box_logits: Tensor, locations: Tensor) -> Tensor:
        distances = distances_of(box_logits, self.bins)
        return distances_to_boxes(distances, self.centres[locations], self.steps[locations])
