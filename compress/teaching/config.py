"""Settings of teachers that are no detector of this package: predictions, ONNX files, backbones."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from compress.parts.backbones import BackboneConfig, SlimResNetConfig
from compress.teaching.boxes import BoxLimits
from compress.teaching.coco_names import NAMED
from compress.teaching.formats import FORMATS
from compress.teaching.formats.graph import Pixels
from export.config import LocalFile, LocalPath, Section, Share
from export.errors import unsafe_character

ClassName = Annotated[str, Field(min_length=1, max_length=200)]


Names = Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=10_000)]
Files = Annotated[tuple[LocalPath, ...], Field(min_length=1, max_length=1000)]
Side = Annotated[int, Field(ge=32, le=8192)]
CategoryId = Annotated[int, Field(ge=0, le=2**53)]


class _BoxTeacher(Section):
    """What teachers share that give boxes with scores.

    Attributes:
        class_map: class of the student -> classes of the teacher that it takes; the others are
            matched by name.
        score_threshold: boxes of a lower score are left out.
        max_boxes: most boxes of a picture; the best are kept.
    """

    class_map: dict[ClassName, Names] = Field(default_factory=dict)
    score_threshold: Share = BoxLimits.score_threshold
    max_boxes: Annotated[int, Field(ge=1, le=1000)] = BoxLimits.max_boxes

    @property
    def limits(self) -> BoxLimits:
        """Which boxes of a picture are kept."""
        return BoxLimits(self.score_threshold, self.max_boxes)


class PredictionsTeacher(_BoxTeacher):
    """What any detector found, as COCO results: a list of image_id, category_id, bbox and score.

    Attributes:
        file: JSON of results, or several; `images` and `categories` in it are used.
        annotations: COCO JSON whose `images` and `categories` the ids in `file` are of; None for
            those in `file` itself, else the data's.
        categories: class name -> category id in `file`, where no file states it.
    """

    type: Literal["predictions"]
    file: LocalPath | Files = Field(description="a path or a list of paths")
    annotations: LocalPath | None = None
    categories: dict[ClassName, CategoryId] | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The files of results."""
        return self.file if isinstance(self.file, tuple) else (self.file,)

    @field_validator("categories")
    @classmethod
    def _each_id_once(cls, ids: dict[str, int] | None) -> dict[str, int] | None:
        found = list((ids or {}).values())
        twice = next((one for one in found if found.count(one) > 1), None)
        if twice is not None:
            raise ValueError(f"id {twice} is given twice; an id is one class")
        return ids


class OnnxTeacher(_BoxTeacher):
    """A detector of any package as an ONNX file, or an artifact of this one.

    Attributes:
        model: the file.
        format: how its outputs are read; found from the file if None.
        classes: class names in the order of its labels, or `coco` (80) or `coco91` (by category
            id); None for those that the file states.
        image_size: side, or height and width, of the pictures that it takes, where the file leaves
            them open.
        pixels: what differs from the preprocessing that is usual for the format.
        nms_iou: IoU above which boxes of a class are one object; None for what is usual for the
            format.
    """

    type: Literal["onnx"]
    model: LocalPath
    format: str | None = None
    classes: Literal["coco", "coco91"] | Names | None = None
    image_size: Side | tuple[Side, Side] | None = Field(
        default=None, description="a whole number or [height, width]"
    )
    pixels: Pixels | None = None
    nms_iou: Annotated[float, Field(gt=0, le=1)] | None = None

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that `image_size` gives."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @property
    def names(self) -> tuple[str, ...]:
        """The class names that `classes` gives; empty for none."""
        given = self.classes
        return NAMED[given] if isinstance(given, str) else given or ()

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str | None) -> str | None:
        if name is not None and name not in FORMATS:
            raise ValueError(f"expected one of {', '.join(FORMATS)}; found {name!r}")
        return name

    @field_validator("classes")
    @classmethod
    def _each_name_once(cls, names: Any) -> Any:
        if isinstance(names, tuple):
            _check_names(names)
        return names


class BackboneTeacher(Section):
    """A pre-trained backbone without a head, whose maps teach features alone.

    Attributes:
        backbone: any model of timm (`timm/<name>`: a ViT, ConvNeXt, ResNet, ...) or torchvision.
        backbone_weights: a local file, or `timm` or `torchvision` to fetch its ImageNet weights.
        precision: number format of a pass; `train`: the training's, fp32 where `teach` stores.
    """

    type: Literal["backbone"]
    backbone: BackboneConfig
    backbone_weights: LocalFile
    precision: Literal["train", "fp32", "bf16"] = "train"

    @property
    def weights(self) -> None:
        """No file of a whole detector: see `compress.parts.pretrained.StartingWeights`."""
        return None

    def backbone_source(self) -> tuple[str | SlimResNetConfig, str]:
        """Return the backbone and the source of its weights."""
        return self.backbone, self.backbone_weights

    @field_validator("backbone")
    @classmethod
    def _is_named(cls, backbone: BackboneConfig) -> BackboneConfig:
        if not isinstance(backbone, str):
            raise ValueError("expected the name of a model that has pre-trained weights")
        return backbone


def _check_names(names: tuple[str, ...]) -> None:
    """Refuse class names that are there twice or would end a line.

    Raises:
        ValueError: naming the first.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice; name each class once")
    unsafe = next(filter(None, map(unsafe_character, names)), None)
    if unsafe is not None:
        raise ValueError(f"a name holds {unsafe}, which ends lines; remove it")


def paths_of(teacher: PredictionsTeacher | OnnxTeacher | BackboneTeacher) -> tuple[Path, ...]:
    """Return the files that a teacher is read from, on which its boxes depend."""
    if isinstance(teacher, PredictionsTeacher):
        return teacher.files + (() if teacher.annotations is None else (teacher.annotations,))
    return (
        (teacher.model,) if isinstance(teacher, OnnxTeacher) else (Path(teacher.backbone_weights),)
    )
