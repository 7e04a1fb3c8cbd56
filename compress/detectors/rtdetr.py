"""RT-DETR (Zhao et al. 2024) of the package `ultralytics` (extra `yolo`, AGPL-3.0)."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from compress.batch import Batch, Targets
from compress.detector import FEATURES, Candidates, Outputs, Queries, Rois, Wanted
from compress.detectors.parts.selection import best_candidates
from compress.detectors.parts.settings import check_maps
from compress.detectors.ultralytics_parts.package import RTDETR_MODELS, load_package
from compress.detectors.ultralytics_parts.settings import NamedModel
from compress.detectors.ultralytics_parts.trunk import UltralyticsDetector, build_ultralytics
from compress.parts.processes import mean_of_batch

CLASS_ROWS = ("head.enc_score_head.", "head.dec_score_head.", "head.denoising_class_embed.")
MOST_LR, MOST_CLIP = 3e-4, 1.0  # its paper: 1e-4 and 0.1


class RtdetrConfig(NamedModel):
    """Settings of an RT-DETR; it learns with a low rate and clipped gradients (1e-4, 0.1)."""

    known: ClassVar[tuple[str, ...]] = RTDETR_MODELS
    large: ClassVar[dict[str, int]] = {"l": 33_000_000, "x": 67_000_000}

    type: Literal["rtdetr"]

    def build(self, num_classes: int, input_size: tuple[int, int]) -> "Rtdetr":
        """Build a detector with random weights for inputs of (height, width) pixels."""
        return Rtdetr(self, num_classes, input_size)

    def advise(self, lr: float, clip: float | None) -> str | None:
        """See `DetectorSection.advise`."""
        if lr <= MOST_LR and clip is not None and clip <= MOST_CLIP:
            return None
        return (
            f"an RT-DETR is trained with lr 1e-4 and clip 0.1 (found lr {lr:g}, clip "
            f"{'null' if clip is None else f'{clip:g}'}); with more its queries tend to collapse"
        )


class Decoded(NamedTuple):
    """What the head gives for B pictures and Q queries, those of denoising first.

    Attributes:
        boxes: (N, B, Q, 4) of N layers: centre, width and height in shares of the input.
        logits: (N, B, Q, K).
        first_boxes: (B, 300 at most, 4) of the encoder, which the own queries start from.
        first_logits: (B, 300 at most, K).
        denoising: the package's description of the denoising queries, if there are any.
    """

    boxes: Tensor
    logits: Tensor
    first_boxes: Tensor
    first_logits: Tensor
    denoising: "dict[str, Any] | None"

    def first(self, count: int) -> "Decoded":
        """Return what belongs to the first `count` pictures, in float32."""
        denoising = self.denoising
        if denoising is not None:
            by_picture = ("dn_pos_idx", "dn_gt_idx")
            denoising = denoising | {name: denoising[name][:count] for name in by_picture}
        return Decoded(
            self.boxes[:, :count].float(),
            self.logits[:, :count].float(),
            self.first_boxes[:count].float(),
            self.first_logits[:count].float(),
            denoising,
        )


class Seen:
    """What the decoder was called with beside its queries, and how it computed.

    Attributes:
        arguments: those after content and references, such as the maps of the pictures.
        named: further ones.
        precision: type of the queries' content.
    """

    def __init__(self, arguments: Sequence[Any], named: Mapping[str, Any], content: Tensor) -> None:
        self.arguments, self.named, self.precision = arguments, named, content.dtype
        self._device = content.device.type
        self._fast = torch.get_autocast_dtype(self._device)
        self._enabled = torch.is_autocast_enabled(self._device)

    def autocast(self) -> torch.autocast:
        """Return the arithmetic of that call: the losses, which probe, are computed without."""
        return torch.autocast(self._device, self._fast, enabled=self._enabled)


class Rtdetr(UltralyticsDetector):
    """A model of the package: backbone, encoder as the neck, decoder with 300 queries as head."""

    anchors: Tensor
    valid: Tensor

    def __init__(self, config: RtdetrConfig, num_classes: int, input_size: tuple[int, int]) -> None:
        trunk = build_ultralytics(config.model, num_classes, input_size, config.bn_momentum)
        super().__init__(config, num_classes, input_size, trunk)
        self.queries = int(self.head.num_queries)
        blank = torch.zeros(1, dtype=torch.float32)
        anchors, valid = self.head._generate_anchors([list(s) for s in trunk.map_sizes], blank)
        self.register_buffer("anchors", anchors, persistent=False)
        self.register_buffer("valid", valid, persistent=False)
        self.head.anchors, self.head.valid_mask = anchors, valid
        self.head.shapes = [list(size) for size in self.map_sizes]
        self.spec = replace(
            self.spec,
            provides=self.spec.provides | {"queries"},
            query_channels=int(self.head.hidden_dim),
            nms_free=True,
        )

    def class_rows(self) -> frozenset[str]:
        """See `Detector.class_rows`: the scores of encoder and decoder, and the noisy labels."""
        return frozenset(name for name in self.state_dict() if name.startswith(CLASS_ROWS))

    def forward(self, batch: Batch, wanted: Wanted = FEATURES, rois: Rois | None = None) -> Outputs:  # noqa: ARG002 - for two-stage families
        """Pass a batch; see `Detector.forward`.

        Denoising queries are drawn for the pictures of one process, from the global random state.
        The head runs on the labelled images only, if nothing but the task losses needs it.
        """
        stages = self.backbone(batch.images)
        features = self.neck(stages)
        check_maps(features, self.map_sizes)
        learns, asked = self.training or "task" in wanted, "queries" in wanted
        if not learns and not asked:
            return Outputs(features, stages)
        labeled = batch.labeled
        count = len(batch.images) if asked or not labeled else labeled
        known = None
        if learns and labeled:
            device = batch.images.device
            known = _as_package(batch.targets[:labeled], count, self.input_size, device)
        with _arguments_of(self.head.decoder) as entered:
            decoded = self._decoded([feature[:count] for feature in features], known)
        return Outputs(
            features,
            stages,
            task_losses=self._losses(decoded, known, labeled) if learns else {},
            queries=self._queries(decoded, *entered[0]) if asked else None,
        )

    def _decoded(self, features: Sequence[Tensor], targets: "dict[str, Any] | None") -> Decoded:
        """Run the head.

        Its cache of anchors is filled beforehand, since a traced pass would leave its own there;
        once per device, since a traced pass may assign nothing.
        """
        head = self.head
        if not head.shapes or head.anchors.device != self.anchors.device:
            head.anchors, head.valid_mask = self.anchors, self.valid
            head.shapes = [list(size) for size in self.map_sizes]
        outputs = head(list(features), targets)
        return Decoded(*(outputs if head.training else outputs[1]))

    def _queries(
        self, decoded: Decoded, arguments: Sequence[Any], named: Mapping[str, Any]
    ) -> Queries:
        """Return the queries that the decoder was called with, without those of denoising.

        Args:
            decoded: results of that call.
            arguments: arguments of that call: content and references (before a sigmoid) first.
            named: named arguments of that call.
        """
        content, references, *pictures = arguments
        own = decoded.first_boxes.shape[1]
        seen = Seen(pictures, {**named, "attn_mask": None}, content)
        return Queries(
            content[:, -own:].detach(),
            references[:, -own:].detach(),
            decoded.logits[:, :, -own:],
            self._as_pixels(decoded.boxes[:, :, -own:].float()),
            partial(self._probe, seen),
            partial(self._match, decoded.boxes[:, :, -own:], decoded.logits[:, :, -own:]),
        )

    def _probe(self, seen: "Seen", content: Tensor, references: Tensor) -> Queries:
        with seen.autocast():
            boxes, logits = self.head.decoder(
                content.to(seen.precision), references, *seen.arguments, **seen.named
            )
        probe = partial(self._probe, seen)
        return Queries(content, references, logits, self._as_pixels(boxes.float()), probe)

    @torch.no_grad()
    def _match(self, boxes: Tensor, logits: Tensor, targets: Sequence[Targets]) -> Tensor:
        """Match queries with objects as the package does; see `Queries.match`.

        Args:
            boxes: (N, B, Q, 4) centre, width and height in shares of the input.
            logits: (N, B, Q, K).
            targets: B entries.
        """
        layers, pictures = boxes.shape[:2]
        known = _as_package(targets, pictures, self.input_size, boxes.device)
        objects = len(known["cls"])
        found = (
            load_package()
            .query_loss(nc=self.num_classes, use_vfl=True)
            .matcher(
                boxes.flatten(0, 1).float(),
                logits.flatten(0, 1).float(),
                known["bboxes"].repeat(layers, 1),
                known["cls"].repeat(layers),
                known["gt_groups"] * layers,
            )
        )
        matched = torch.full((layers * pictures, boxes.shape[2]), -1)
        for row, (queries, owner) in zip(matched, found, strict=True):
            row[queries] = owner % max(1, objects)
        return matched.view(boxes.shape[:3]).to(boxes.device)

    def _losses(
        self, decoded: Decoded, targets: "dict[str, Any] | None", labeled: int
    ) -> dict[str, Tensor]:
        """Return the twelve terms of the package by shorter names, of the `labeled` pictures."""
        if targets is None:
            nothing = 0 * torch.stack([one.float().sum() for one in decoded[:4]]).sum()
            return {"class": nothing}
        with torch.autocast(decoded.boxes.device.type, enabled=False):
            return self._compared(decoded.first(labeled), targets)

    def _compared(self, decoded: Decoded, targets: dict[str, Any]) -> dict[str, Tensor]:
        boxes, logits, first_boxes, first_logits, denoising = decoded
        noisy_boxes = noisy_logits = None
        if denoising is not None:
            noisy_boxes, boxes = torch.split(boxes, denoising["dn_num_split"], dim=2)
            noisy_logits, logits = torch.split(logits, denoising["dn_num_split"], dim=2)
        found: dict[str, Tensor] = load_package().query_loss(nc=self.num_classes, use_vfl=True)(
            (torch.cat([first_boxes[None], boxes]), torch.cat([first_logits[None], logits])),
            {**targets, "gt_groups": targets["gt_groups"][: len(first_boxes)]},
            dn_bboxes=noisy_boxes,
            dn_scores=noisy_logits,
            dn_meta=denoising,
        )
        objects = len(targets["cls"])
        return {
            name.removeprefix("loss_").replace("bbox", "box"): mean_of_batch(value, objects)
            for name, value in found.items()
        }

    def candidates(self, images: Tensor) -> Candidates:
        """Return the best (query, class) pairs; see `Detector.candidates`."""
        features = self.maps(images)
        check_maps(features, self.map_sizes)
        decoded = self._decoded(features, None)
        return best_candidates(
            decoded.logits[-1].float().sigmoid(),
            decoded.boxes[-1].float(),
            self.queries,
            self._decode,
            self.input_size,
        )

    def _decode(self, boxes: Tensor, queries: Tensor) -> Tensor:
        del queries
        return self._as_pixels(boxes)

    def _as_pixels(self, boxes: Tensor) -> Tensor:
        """Return xyxy pixels of centres and sizes in shares of the input."""
        height, width = self.input_size
        centres, half = boxes[..., :2], boxes[..., 2:] / 2
        shares = torch.cat((centres - half, centres + half), dim=-1)
        return shares * shares.new_tensor([width, height, width, height])


@contextmanager
def _arguments_of(module: nn.Module) -> Iterator[list[tuple[Sequence[Any], Mapping[str, Any]]]]:
    """Record the arguments, positional and named, of the calls of a module."""
    calls: list[tuple[Sequence[Any], Mapping[str, Any]]] = []

    def record(_: nn.Module, arguments: Sequence[Any], named: Mapping[str, Any]) -> None:
        calls.append((arguments, named))

    handle = module.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


def _as_package(
    targets: Sequence[Targets], count: int, input_size: tuple[int, int], device: torch.device
) -> dict[str, Any]:
    """Return targets as the package takes them: boxes cxcywh in shares of the input.

    Args:
        targets: objects of the first pictures.
        count: number of all pictures; the others get no object.
        input_size: height and width, pixels.
        device: device of the result.
    """
    height, width = input_size
    boxes = torch.cat([target.boxes for target in targets]).to(device, torch.float32)
    boxes = boxes / boxes.new_tensor([width, height, width, height])
    sizes = boxes[:, 2:] - boxes[:, :2]
    counts = [len(target.boxes) for target in targets]
    pictures = torch.arange(len(targets), device=device)
    return {
        "cls": torch.cat([target.labels for target in targets]).to(device),
        "bboxes": torch.cat((boxes[:, :2] + sizes / 2, sizes), dim=1),
        "batch_idx": pictures.repeat_interleave(torch.tensor(counts, device=device)),
        "gt_groups": counts + [0] * (count - len(counts)),
    }
