"""The `data` section of a recipe, and the image sets that it opens to."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from typing_extensions import Self

from benchmarks.data.coco import read_coco_split
from benchmarks.data.detect import Format, detect_format
from benchmarks.data.image_set import ImageSet
from benchmarks.data.pictures import read_pictures
from benchmarks.data.roboflow import ANNOTATIONS, read_roboflow
from benchmarks.data.shapes import Difficulty, shapes_set
from benchmarks.data.voc import read_voc
from benchmarks.data.yolo import read_yolo
from compress.data.augment import AugmentConfig
from compress.data.splits import (
    chosen,
    limited,
    same_classes,
    select_classes,
    without_labels,
    without_pictures,
)
from export.config import Section
from export.errors import DataError

_STRIDE = 32  # the coarsest that every detector has; input sides are multiples of it
_DRAWN = {"train": 4000, "val": 500, "unlabeled": 4000}


class SplitConfig(Section):
    """Which pictures make one split.

    Attributes:
        split: its name in the data set; by default the role's: train, val, unlabeled.
        path: annotation file, data.yaml, split list or folder, where the usual place is not it;
            relative to `root`.
        images: folder of the pictures, for COCO JSON, likewise.
        limit: use only so many, the first of a permutation drawn with `seed`.
        seed: see `limit`.
        count: how many pictures to draw; for `shapes` only.
        rest: for unlabeled: leave out the pictures that `train` has labels of, before `limit`.
    """

    split: str | None = None
    path: Path | None = None
    images: Path | None = None
    limit: PositiveInt | None = None
    seed: NonNegativeInt = 0
    count: PositiveInt | None = None
    rest: bool = False


class _Common(Section):
    """What drawn and photographed data share."""

    image_size: PositiveInt | tuple[PositiveInt, PositiveInt]  # side, or (height, width)
    train: SplitConfig = SplitConfig()
    val: SplitConfig = SplitConfig()
    unlabeled: SplitConfig | None = None
    augment: AugmentConfig = AugmentConfig()
    cache_gib: NonNegativeFloat = 4.0  # memory for decoded pictures

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the letterboxed input."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        height, width = self.input_size
        if height % _STRIDE or width % _STRIDE:
            raise ValueError(f"image_size {height} x {width}: sides must be multiples of {_STRIDE}")
        if self.augment.transpose > 0 and height != width:
            raise ValueError(f"augment.transpose needs a square image_size, not {height} x {width}")
        return self


@dataclass(frozen=True)
class Data:
    """The image sets of one recipe.

    Attributes:
        train: labelled pictures to learn from.
        val: labelled pictures to measure on.
        unlabeled: pictures for the distillation terms alone; without boxes.
        classes: K names, of train and val alike.
        category_ids: K ids of the data set, in the order of `classes`.
        input_height: of the letterboxed input.
        input_width: likewise.
        augment: what training does to pictures.
        format: what was read, for the log.
        cache_bytes: memory that decoded pictures may take.
    """

    train: ImageSet
    val: ImageSet
    unlabeled: ImageSet | None
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    input_height: int
    input_width: int
    augment: AugmentConfig
    format: str
    cache_bytes: int

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)


class FolderConfig(_Common):
    """Photographs in a folder, in whatever format they come.

    Attributes:
        root: the data set's folder.
        format: told by looking unless named.
        classes: the classes to use, in this order; all of the data set's if not given. Objects of
            other classes are left out and counted.
    """

    type: Literal["folder"] = "folder"
    root: Path
    format: Literal["auto", "coco", "yolo", "voc", "roboflow"] = "auto"
    classes: tuple[str, ...] | None = None

    def open(self) -> Data:
        """Read annotations and find the pictures; decodes nothing.

        Raises:
            DataError: something is missing, wrong or contradictory.
        """
        root = self.root.expanduser()
        _refuse_count(self)
        formats: list[str] = []
        train, val = (
            self._read(root, split, role, formats)
            for split, role in ((self.train, "train"), (self.val, "val"))
        )
        same_classes(train, val)
        if self.classes is not None:
            train, val = (select_classes(s, self.classes) for s in (train, val))
        unlabeled = None
        if self.unlabeled is not None:
            unlabeled = self._read_unlabeled(root, self.unlabeled, train, formats)
        return _data(self, train, val, unlabeled, " and ".join(dict.fromkeys(formats)))

    def _read(self, root: Path, split: SplitConfig, role: str, formats: list[str]) -> ImageSet:
        name = split.split or role
        path, images = _within(root, split.path), _within(root, split.images)
        if path is not None and not path.exists():
            raise DataError(f"data.{role}.path: {path}: no such file or folder")
        if images is not None and not images.is_dir():
            raise DataError(f"data.{role}.images: {images}: no such folder")
        kind = self.format if self.format != "auto" else _format_of(root, path)
        if images is not None and kind != "coco":
            raise DataError(f"data.{role}.images is for COCO JSON; {root} was read as {kind}")
        formats.append(kind)
        if kind == "coco":
            if path is not None and path.is_dir():
                found = read_coco_split(path, name, None, images)
            else:
                found = read_coco_split(root, name, path, images)
        elif kind == "roboflow":
            found = read_roboflow(root, name, path)
        elif kind == "voc":
            found = read_voc(root, name, path, self.classes)
        elif path is not None and path.is_dir():
            found = read_yolo(path, name)
        else:
            found = read_yolo(root, name, path)
        return limited(replace(found, name=role), split.limit, split.seed)

    def _read_unlabeled(
        self, root: Path, split: SplitConfig, train: ImageSet, formats: list[str]
    ) -> ImageSet:
        """Read a labelled split and forget its labels, or take a plain folder of pictures."""
        path = _within(root, split.path)
        if path is None and (split.split is None or (root / split.split).is_dir()):
            path = root / (split.split or "unlabeled")
        plain = path is not None and (not path.exists() or path.is_dir())
        if plain and path is not None:
            found = read_pictures(path, "unlabeled", train.classes, train.category_ids)
        else:
            found = self._read(root, split.model_copy(update={"limit": None}), "unlabeled", formats)
        bare = replace(found, classes=train.classes, category_ids=train.category_ids)
        return _unlabeled(bare, split, train)


class ShapesConfig(_Common):
    """Drawn pictures: no file, no download, as many as wanted.

    Attributes:
        seed: another seed draws another data set.
        difficulty: `hard` has more, smaller and better hidden objects of more classes.
    """

    type: Literal["shapes"]
    seed: int = Field(default=0, ge=0, lt=2**32)
    difficulty: Difficulty = "standard"

    def open(self) -> Data:
        """Place the shapes; pixels are drawn when asked for.

        Raises:
            DataError: a split is not one of drawn data.
        """
        train = self._draw(self.train, "train")
        val = self._draw(self.val, "val")
        unlabeled = None
        if self.unlabeled is not None:
            wanted = self.unlabeled
            count = wanted.count or max(_DRAWN["unlabeled"], wanted.limit or 0)
            whole = wanted.model_copy(update={"limit": None, "count": count})
            drawn = self._draw(whole if wanted.rest else wanted, "unlabeled")
            unlabeled = _unlabeled(drawn, wanted, train)
        return _data(self, train, val, unlabeled, "shapes")

    def _draw(self, split: SplitConfig, role: str) -> ImageSet:
        if split.path is not None or split.images is not None:
            raise DataError(f"data.{role}: drawn data has no path or images; remove them")
        count = split.count or max(_DRAWN[role], split.limit or 0)
        height, width = self.input_size
        name = split.split or role
        numbers = chosen(count, split.limit, split.seed)
        found = shapes_set(name, numbers, height, width, self.seed, self.difficulty)
        return replace(found, name=role)


DataConfig = Annotated[FolderConfig | ShapesConfig, Field(discriminator="type")]


def _data(
    config: FolderConfig | ShapesConfig,
    train: ImageSet,
    val: ImageSet,
    unlabeled: ImageSet | None,
    found: str,
) -> Data:
    for image_set in (train, val, *([unlabeled] if unlabeled is not None else [])):
        if not len(image_set):
            raise DataError(f"data.{image_set.name}: no pictures in {image_set.source}")
        if image_set is not unlabeled and not any(len(i.labels) for i in image_set.images):
            raise DataError(
                f"data.{image_set.name}: no boxes in {image_set.source}; nothing could be learnt "
                "or measured on it"
            )
    height, width = config.input_size
    return Data(
        train=train,
        val=val,
        unlabeled=unlabeled,
        classes=train.classes,
        category_ids=train.category_ids,
        input_height=height,
        input_width=width,
        augment=config.augment,
        format=found,
        cache_bytes=int(config.cache_gib * 2**30),
    )


def _unlabeled(found: ImageSet, split: SplitConfig, train: ImageSet) -> ImageSet:
    bare = without_labels(without_pictures(found, train) if split.rest else found)
    return limited(bare, split.limit, split.seed)


def _within(root: Path, path: Path | None) -> Path | None:
    if path is None:
        return None
    path = path.expanduser()
    return root / path if (root / path).exists() or not path.exists() else path


def _format_of(root: Path, path: Path | None) -> Format:
    """Tell the format of one split from its own path, or else from the data set's folder."""
    if path is None:
        return detect_format(root)
    if path.is_dir():
        if (path / ANNOTATIONS).is_file():
            return "roboflow"
        return "voc" if any(path.glob("*.xml")) else detect_format(path)
    endings: dict[str, Format] = {".json": "coco", ".yaml": "yolo", ".yml": "yolo", ".txt": "voc"}
    if path.suffix.lower() not in endings:
        raise DataError(f"{path}: expected a .json, .yaml or .txt file, or a folder")
    return "roboflow" if path.name == ANNOTATIONS else endings[path.suffix.lower()]


def _refuse_count(config: FolderConfig) -> None:
    for role in ("train", "val", "unlabeled"):
        split: SplitConfig | None = getattr(config, role)
        if split is not None and split.count is not None:
            raise DataError(f"data.{role}.count is for drawn data; use data.{role}.limit for files")
