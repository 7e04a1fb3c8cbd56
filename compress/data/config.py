"""The `data` section of a recipe, and the image sets that it opens to."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from benchmarks.data.detect import own_splits
from benchmarks.data.division import Division, Side, divide
from benchmarks.data.folder import format_of, read_split, read_whole, reading
from benchmarks.data.image_set import ImageSet
from benchmarks.data.parts.splits import split_names
from benchmarks.data.pictures import read_pictures
from benchmarks.data.shapes import Difficulty, shapes_set
from compress.data.augment import AugmentConfig
from compress.data.depth import with_bit_depth
from compress.data.split_settings import DivisionConfig, SplitConfig
from compress.data.splits import (
    chosen,
    limited,
    refuse_useless,
    same_classes,
    select_classes,
    without_labels,
    without_pictures,
)
from export.config import ClashError, Section, Seed, WrittenPath
from export.errors import DataError

_STRIDE = 32  # the coarsest that every detector has; input sides are multiples of it
InputSide = Annotated[int, Field(ge=_STRIDE, le=8192)]
_SIZES = "a whole number or [height, width]"  # for messages
_DRAWN = {"train": 4000, "val": 500, "unlabeled": 4000}


class _Common(Section):
    """Settings that drawn and photographed data share.

    Attributes:
        image_size: side of the letterboxed input, or (height, width).
        cache_gib: memory for letterboxed training pictures; as many as fit are decoded once.
        fast_decode: whether training decodes JPEGs at 1/2, 1/4 or 1/8 of their size. Pictures that
            are measured on or calibrated with are always decoded in full.
        bit_depth: bits in use of pictures with 16 bits a value; found from a sample if None.
    """

    image_size: InputSide | tuple[InputSide, InputSide] = Field(description=_SIZES)
    train: SplitConfig = SplitConfig()
    val: SplitConfig = SplitConfig()
    unlabeled: SplitConfig | None = None
    augment: AugmentConfig = AugmentConfig()
    cache_gib: float = Field(default=4.0, ge=0, le=100_000)
    fast_decode: bool = False
    bit_depth: Annotated[int, Field(ge=8, le=16)] | None = None

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the letterboxed input."""
        size = self.image_size
        return (size, size) if isinstance(size, int) else size

    @model_validator(mode="after")
    def _check_size(self) -> Self:
        height, width = self.input_size
        if height % _STRIDE or width % _STRIDE:
            raise ClashError(
                f"{height} x {width}: sides must be multiples of {_STRIDE}", "image_size"
            )
        for role in ("train", "val"):
            if getattr(self, role).rest:
                raise ClashError("is for data.unlabeled alone; remove it elsewhere", (role, "rest"))
        if self.augment.transpose > 0 and height != width:
            raise ClashError(
                f"transpose needs a square image_size, not {height} x {width}",
                *(("augment", "transpose"), "image_size"),
            )
        return self


@dataclass(frozen=True)
class Data:
    """The image sets of one recipe.

    Attributes:
        train: labelled pictures to learn from.
        val: labelled pictures to measure on.
        unlabeled: pictures without boxes, for the distillation terms only.
        classes: K names, of train and val alike.
        category_ids: K ids of the data set, in the order of `classes`.
        input_height: height of the letterboxed input, pixels.
        input_width: width of the letterboxed input, pixels.
        augment: what training does to pictures.
        format: format that was read, for the log.
        cache_bytes: memory that decoded pictures may take.
        fast_decode: whether training decodes JPEGs at a fraction of their size.
        division: how data.split divided a set without splits; None where it came with splits.
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
    fast_decode: bool = False
    division: Division | None = None

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.classes)


class FolderConfig(_Common):
    """Photographs in a folder, in any known format.

    Attributes:
        root: folder of the data set.
        format: format of the annotations; detected unless named.
        classes: classes to use, in this order; all of the data set's if not given. Objects of
            other classes are left out and counted.
        split: divides a data set that has no splits, or the one that `train` names.
    """

    type: Literal["folder"] = "folder"
    root: WrittenPath
    format: Literal["auto", "coco", "yolo", "voc", "roboflow"] = "auto"
    classes: tuple[str, ...] | None = None
    split: DivisionConfig | None = None

    def open(self) -> Data:
        """Read annotations and find the pictures; decodes nothing.

        Raises:
            DataError: something is missing, wrong or contradictory.
        """
        with reading(self.root):
            return self._open(_expanded(self.root))

    def _open(self, root: Path) -> Data:
        _refuse_count(self)
        formats: list[str] = []
        division = None
        if self.split is not None:
            train, val, division = self._divided(root, self.split, formats)
        else:
            self._refuse_whole(root)
            train, val = (
                self._read(root, split, role, formats)
                for split, role in ((self.train, "train"), (self.val, "val"))
            )
        if self.classes is not None:
            train, val = (select_classes(s, self.classes) for s in (train, val))
        same_classes(train, val)
        unlabeled = None
        if self.unlabeled is not None:
            unlabeled = self._read_unlabeled(root, self.unlabeled, train, formats, division)
        found = " and ".join(dict.fromkeys(formats))
        return _data(self, train, val, unlabeled, found, division)

    def _read(self, root: Path, split: SplitConfig, role: str, formats: list[str]) -> ImageSet:
        found = self._read_all(root, split, role, formats)
        return limited(replace(found, name=role), split.limit, split.seed)

    def _read_all(self, root: Path, split: SplitConfig, role: str, formats: list[str]) -> ImageSet:
        """Read what a role names, without its limit."""
        path, images = _within(root, split.path), _within(root, split.images)
        if path is not None and not path.exists():
            raise DataError(f"data.{role}.path: {path}: no such file or folder")
        if images is not None and not images.is_dir():
            raise DataError(f"data.{role}.images: {images}: no such folder")
        fmt = format_of(root, path, self.format)
        if images is not None and fmt != "coco":
            raise DataError(f"data.{role}.images: is for COCO JSON; {root} was read as {fmt}")
        formats.append(fmt)
        return read_split(root, split.split or role, fmt, path, images, self.classes)

    def _divided(
        self, root: Path, asked: DivisionConfig, formats: list[str]
    ) -> tuple[ImageSet, ImageSet, Division]:
        """Divide the split that `train` names, or the whole set; limits apply afterwards."""
        if self.val.split or self.val.path or self.val.images:
            raise DataError(
                "data.split: takes val from the pictures of train; remove data.val's split, path "
                "and images, or data.split"
            )
        if self.train.split or self.train.path:
            pool = self._read_all(root, self.train, "train", formats)
        else:
            pool = self._pool(root, formats)
        division = divide(pool, root, asked.val, asked.test, asked.seed)
        roles: tuple[tuple[Side, SplitConfig], ...] = (("train", self.train), ("val", self.val))
        train, val = (limited(division.of(side), s.limit, s.seed) for side, s in roles)
        return train, val, division

    def _pool(self, root: Path, formats: list[str]) -> ImageSet:
        """Read all pictures of a set without splits, or the one split that it has to learn from."""
        fmt = format_of(root, None, self.format)
        names = own_splits(root, fmt)
        if set(names) & set(split_names("val")):
            raise DataError(
                f"{root}: comes with splits of its own ({', '.join(names)}), so data.split is not "
                "needed; remove it. To divide one of these splits nevertheless, name it with "
                "data.train.split"
            )
        if names and "train" not in names:
            raise DataError(
                f"{root}: comes with the splits {', '.join(names)}; name the one to divide with "
                "data.train.split"
            )
        formats.append(fmt)
        if names:
            return read_split(root, "train", fmt, images=self.train.images, classes=self.classes)
        return read_whole(root, fmt, self.classes)

    def _refuse_whole(self, root: Path) -> None:
        """Refuse a data set without a val split; the error states what to add to the recipe.

        Raises:
            DataError: the data set has no splits, or only train.
        """
        named = [s for r in (self.train, self.val) for s in (r.split, r.path) if s is not None]
        if named:
            return
        names = own_splits(root, format_of(root, None, self.format))
        if set(names) & set(split_names("val")) or (names and "train" not in names):
            return
        found = f"has {', '.join(names)} and no val" if names else "has no splits of its own"
        raise DataError(
            f"{root}: {found}. Add to the recipe, under data: `split: {{val: 0.2, seed: 0}}`, and "
            "a fifth of the pictures is held out for val; or name files or folders with "
            "data.train.path and data.val.path"
        )

    def _read_unlabeled(
        self,
        root: Path,
        split: SplitConfig,
        train: ImageSet,
        formats: list[str],
        division: Division | None,
    ) -> ImageSet:
        """Read a labelled split without its labels, or a plain folder of pictures."""
        path = _within(root, split.path)
        if division is not None and path is None and split.split == "train":
            return _unlabeled(division.of("train"), split, train)
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
    """Synthetic pictures of shapes, drawn on request; needs no files and no download.

    Attributes:
        seed: another seed draws another data set.
        difficulty: `hard` has more, smaller and better hidden objects of more classes.
    """

    type: Literal["shapes"]
    seed: Seed = 0
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
        numbers = chosen(count, split.limit, split.seed, role)
        style, labeled = self.difficulty, role != "unlabeled"
        found = shapes_set(name, numbers, height, width, self.seed, style, labeled=labeled)
        return replace(found, name=role)


DataConfig = Annotated[FolderConfig | ShapesConfig, Field(discriminator="type")]


def _data(
    config: FolderConfig | ShapesConfig,
    train: ImageSet,
    val: ImageSet,
    unlabeled: ImageSet | None,
    found: str,
    division: Division | None = None,
) -> Data:
    for image_set in (train, val, *([unlabeled] if unlabeled is not None else [])):
        if not len(image_set):
            raise DataError(f"data.{image_set.name}: no pictures in {image_set.source}")
        if image_set is not unlabeled:
            refuse_useless(image_set, config.input_size, config.augment)
    height, width = config.input_size
    named = [train, val] if unlabeled is None else [train, val, unlabeled]
    train, val, *rest = with_bit_depth(named, config.bit_depth)
    return Data(
        train=train,
        val=val,
        unlabeled=rest[0] if rest else None,
        classes=train.classes,
        category_ids=train.category_ids,
        input_height=height,
        input_width=width,
        augment=config.augment,
        format=found,
        cache_bytes=int(config.cache_gib * 2**30),
        fast_decode=config.fast_decode,
        division=division,
    )


def _unlabeled(found: ImageSet, split: SplitConfig, train: ImageSet) -> ImageSet:
    bare = without_labels(without_pictures(found, train) if split.rest else found)
    return limited(bare, split.limit, split.seed)


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise DataError(f"{path}: the home folder that ~ stands for is not known") from None


def _within(root: Path, path: Path | None) -> Path | None:
    if path is not None:
        path = _expanded(path)
        path = root / path if (root / path).exists() or not path.exists() else path
    return path


def _refuse_count(config: FolderConfig) -> None:
    for role in ("train", "val", "unlabeled"):
        if getattr(getattr(config, role), "count", None) is not None:
            raise DataError(
                f"data.{role}.count: is for drawn data; use data.{role}.limit for files"
            )
