"""A small classifier of object crops, the teacher of `dicod`; compress/stages trains it."""

from pydantic import Field
from torch import Tensor, nn

from compress.parts.backbones import BackboneConfig, build_backbone
from compress.training.optim import TrainConfig
from export.config import Batch, LocalFile, Section


class ClassifierConfig(Section):
    """The classifier and its training."""

    backbone: BackboneConfig = "resnet18"
    backbone_weights: LocalFile | None = None  # a file, torchvision or timm, as for a detector
    crop: int = Field(default=112, ge=32, le=1024)  # side in pixels that crops are resized to
    epochs: int = Field(default=10, ge=1, le=100_000)
    batch: Batch = 16  # pictures, with all of their boxes
    lr: float = Field(default=1e-3, ge=1e-9, le=1000)
    weight_decay: float = Field(default=0.05, ge=0, le=100)
    workers: int = Field(default=0, ge=0, le=256)

    def schedule(self) -> TrainConfig:
        """Return the settings of its training as those of the training loop."""
        return TrainConfig(
            epochs=self.epochs,
            batch=self.batch,
            lr=self.lr,
            weight_decay=self.weight_decay,
            workers=self.workers,
            evaluations=1,
            amp="off",
        )

    def build(self, num_classes: int) -> "Classifier":
        """Build a classifier with random weights."""
        return Classifier(self, num_classes)


class Classifier(nn.Module):
    """A backbone, average pooling and a linear layer."""

    def __init__(self, config: ClassifierConfig, num_classes: int) -> None:
        super().__init__()
        self.crop = config.crop
        self.backbone = build_backbone(config.backbone, (32,), "batch")
        self.class_logits = nn.Linear(self.backbone.channels[-1], num_classes)

    def last_map(self, crops: Tensor) -> Tensor:
        """Return (n, C, h, w) of (n, 3, crop, crop) RGB in 0..1."""
        last: Tensor = self.backbone(crops)[-1]
        return last

    def forward(self, crops: Tensor) -> Tensor:
        """Return logits (n, K)."""
        return self.classify(self.last_map(crops))

    def classify(self, maps: Tensor) -> Tensor:
        """Return logits (n, K) of last maps."""
        logits: Tensor = self.class_logits(maps.mean(dim=(2, 3)))
        return logits
