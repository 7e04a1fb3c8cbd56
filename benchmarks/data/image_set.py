"""Labelled photographs: the form that all readers return. Original pixels, classes 0..K-1."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from typing_extensions import NotRequired, TypedDict

from benchmarks.data.annotations import (
    SEVERAL,
    TURNED,
    UNDECIDED,
    RawObject,
    ReadingNotes,
    Tally,
    clipped,
    note_unlisted,
)
from benchmarks.data.coco_json import (
    CocoDocument,
    annotations,
    categories,
    image_entries,
    load_coco,
)
from benchmarks.data.parts.frames import Frame, frames_of
from benchmarks.data.parts.lookup import find_pictures
from export.errors import DataError, counted
from export.pictures.images import (
    Letterbox,
    letterbox,
    open_photograph,
    read_canvas_fast,
)


@dataclass(frozen=True)
class LabeledImage:
    """One picture and its objects, in pixels of the upright original.

    Attributes:
        id: unique within its set.
        file_name: as the dataset names it; `shapes/...` for drawn ones.
        width: pixels, upright.
        height: pixels, upright.
        boxes: (n, 4) float64 xyxy, crowd boxes included, each of positive area.
        labels: (n,) int64 in 0..K-1.
        crowd: (n,) bool; ignored in training, handled by COCO's rules in evaluation.
        areas: (n,) float64 COCO areas (of the mask where there is one).
    """

    id: int
    file_name: str
    width: int
    height: int
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]


@dataclass(frozen=True)
class Reindexed:
    """A drawing function restricted to some indices; picklable, unlike a lambda."""

    draw: Callable[[int], NDArray[np.uint8]]
    indices: tuple[int, ...]

    def __call__(self, index: int) -> NDArray[np.uint8]:
        """Draw the picture at `index` of the chosen ones."""
        return self.draw(self.indices[index])


@dataclass(frozen=True)
class ImageSet:
    """The pictures of one split.

    Attributes:
        name: name of the split: "train", "val", ...
        source: description for messages: `COCO JSON data/train.json, 205 images`.
        classes: K names.
        category_ids: K ids of the dataset, in the order of `classes`.
        images: the pictures; a sequence may place the objects of one when it is asked for.
        paths: a file per picture; empty when they are drawn.
        draw: function from picture index to (H, W, 3) uint8 RGB; None for files.
        notes: what was dropped or corrected while reading, one sentence each.
        tally: counts of what the files hold, of what was kept and of what was left out; those of
            the whole split, also where only some of its pictures were taken.
        sha256: hash of each file, where the files were read already; else empty.
        bit_depth: bits in use of pictures with 16 bits a value; None: what each of them needs.
        warnings: what looks wrong in the annotations, one sentence each.
    """

    name: str
    source: str
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: Sequence[LabeledImage]
    paths: tuple[Path, ...] = ()
    draw: Callable[[int], NDArray[np.uint8]] | None = None
    notes: tuple[str, ...] = ()
    tally: Tally = field(default_factory=Tally)
    sha256: tuple[str, ...] = ()
    bit_depth: int | None = None
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.images)

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of class list, file names, sizes and annotations, in order."""
        return fingerprint(self.classes, self.category_ids, self.images)

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """Return the pictures at `indices`, in that order; notes are those of the whole set."""
        images = tuple(self.images[i] for i in indices)
        return replace(
            self,
            source=f"{self.source}, {len(indices)} of them taken",
            images=images,
            paths=tuple(self.paths[i] for i in indices) if self.paths else (),
            sha256=tuple(self.sha256[i] for i in indices) if self.sha256 else (),
            draw=None if self.draw is None else Reindexed(self.draw, tuple(indices)),
        )


def labeled_image(
    image_id: int,
    file_name: str,
    frame: Frame,
    objects: Iterable[RawObject],
    notes: ReadingNotes,
) -> LabeledImage:
    """Make one entry of a set: clip boxes or leave them out, and turn them upright."""
    columns = clipped(file_name, frame.width, frame.height, objects, notes)
    if len(columns.boxes) and frame.orientation != 1:
        columns = columns._replace(boxes=frame.turned(columns.boxes))
        notes.add(TURNED, file_name)
    elif len(columns.boxes) and not frame.decided:
        notes.add(UNDECIDED, file_name)
    if frame.several:
        notes.add(SEVERAL, file_name)
    width, height = frame.upright()
    return LabeledImage(image_id, file_name, width, height, *columns)


def fingerprint(
    classes: Sequence[str], category_ids: Sequence[int], images: Iterable[LabeledImage]
) -> str:
    """Return the sha256 of class list, file names, sizes and annotations, in order."""
    digest = hashlib.sha256(repr((tuple(classes), tuple(category_ids))).encode())
    for image in images:
        head = f"\n{image.id}|{image.file_name}|{image.width}x{image.height}|{len(image.labels)}"
        digest.update(head.encode("utf-8", "surrogatepass"))
        for column in (image.boxes, image.labels, image.crowd, image.areas):
            digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def read_coco(
    json_path: Path, images_folder: Path | None = None, name: str | None = None
) -> ImageSet:
    """Read a COCO JSON file; classes are ordered by category id.

    Pictures are looked for in `images_folder` alone if given, else beside the JSON, in `images/`
    and in folders named like the split; then, by bare name, anywhere below those.

    Raises:
        DataError: naming the file and the entry that is wrong, or the pictures that are missing.
    """
    name = name or json_path.stem
    beside = json_path.parent
    if images_folder is not None:
        folders = [images_folder]
    else:
        folders = [beside, beside / "images", beside / name, beside / "images" / name]
    return coco_image_set(load_coco(json_path), json_path, folders, name)


def coco_image_set(
    document: CocoDocument,
    path: Path,
    folders: Sequence[Path],
    name: str,
    documents: Sequence[Path] = (),
) -> ImageSet:
    """Check every entry of a parsed COCO file and find its pictures in `folders`.

    `documents` are as `note_unlisted` takes them.
    """
    notes = ReadingNotes()
    classes = categories(document["categories"], path)
    label_of = {category_id: label for label, category_id in enumerate(classes)}
    entries = image_entries(document["images"], path)
    objects = annotations(document["annotations"], path, label_of, set(entries), notes)
    names = [entry.file_name for entry in entries.values()]
    paths = find_pictures(names, folders, str(path))
    note_unlisted(paths, name, notes, documents)
    frames = frames_of(paths, [entry.size for entry in entries.values()])
    images = []
    for (image_id, entry), frame in zip(entries.items(), frames, strict=True):
        raw = objects.get(image_id, ())
        images.append(labeled_image(image_id, entry.file_name, frame, raw, notes))
    return ImageSet(
        name=name,
        source=f"COCO JSON {path}, {counted(len(images), 'image')}",
        classes=tuple(classes.values()),
        category_ids=tuple(classes),
        images=tuple(images),
        paths=paths,
        notes=notes.sentences(),
        tally=notes.tally(),
        warnings=notes.warnings("xywh"),
    )


def read_canvas(
    image_set: ImageSet,
    index: int,
    input_height: int,
    input_width: int,
    fill: int = 114,
    *,
    fast_decode: bool = False,
) -> tuple[NDArray[np.uint8], Letterbox]:
    """Return the picture at `index`, letterboxed: (H, W, 3) uint8 RGB, and its placement.

    With `fast_decode` a JPEG is decoded at a fraction of its size: for training alone.

    Raises:
        DataError: the picture cannot be read, or has another size than its annotations say.
    """
    if fast_decode and image_set.draw is None:
        image, path = image_set.images[index], image_set.paths[index]
        canvas, place = read_canvas_fast(path, input_height, input_width, fill, image_set.bit_depth)
        size = (round(place.width / place.scale_x), round(place.height / place.scale_y))
        if size == (image.width, image.height):
            return canvas, place
    return letterbox(read_photograph(image_set, index), input_height, input_width, fill)


def read_photograph(image_set: ImageSet, index: int) -> NDArray[np.uint8]:
    """Return the whole picture at `index`, upright: (height, width, 3) uint8 RGB.

    Raises:
        DataError: the picture cannot be read, or has another size than its annotations say.
    """
    if image_set.draw is not None:
        return image_set.draw(index)
    pixels = open_photograph(image_set.paths[index], image_set.bit_depth)
    check_size(image_set, index, (pixels.shape[1], pixels.shape[0]))
    return pixels


def check_size(image_set: ImageSet, index: int, size: tuple[int, int]) -> None:
    """Compare the upright (width, height) of a picture file with what its annotations state.

    Raises:
        DataError: they differ.
    """
    image, path = image_set.images[index], image_set.paths[index]
    if size != (image.width, image.height):
        raise DataError(
            f"{path}: the picture is {size[0]} x {size[1]} pixels, its annotations "
            f"({image_set.source}) say {image.width} x {image.height}. Boxes would be misplaced: "
            "correct the annotation file or put the original picture back."
        )


class CocoImage(TypedDict):
    """One picture of a COCO annotation file."""

    id: int
    file_name: str
    width: int
    height: int


class CocoObject(TypedDict):
    """One annotated object; `bbox` is xywh in pixels of the photograph."""

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int


class CocoCategory(TypedDict):
    """One class."""

    id: int
    name: str


class GroundTruth(TypedDict):
    """A labelled set in COCO's annotation format."""

    info: NotRequired[dict[str, str]]
    images: list[CocoImage]
    annotations: list[CocoObject]
    categories: list[CocoCategory]


def coco_ground_truth(image_set: ImageSet) -> GroundTruth:
    """Return the set as a COCO dictionary for pycocotools; annotation ids count from 1."""
    objects: list[CocoObject] = []
    for image in image_set.images:
        for box, label, crowd, area in zip(
            image.boxes.tolist(), image.labels.tolist(), image.crowd, image.areas, strict=True
        ):
            objects.append(
                {
                    "id": len(objects) + 1,
                    "image_id": image.id,
                    "category_id": image_set.category_ids[label],
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "area": float(area),
                    "iscrowd": int(crowd),
                }
            )
    return {
        "info": {"description": image_set.source},
        "images": [
            {"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height}
            for i in image_set.images
        ],
        "annotations": objects,
        "categories": [
            {"id": category_id, "name": name}
            for category_id, name in zip(image_set.category_ids, image_set.classes, strict=True)
        ],
    }
