"""Plain folders of pictures, without labels."""

from pathlib import Path

from benchmarks.data.annotations import ReadingNotes, files_below
from benchmarks.data.image_set import ImageSet, LabeledImage, labeled_image
from export.errors import DataError
from export.pictures.images import photograph_size

PICTURES = frozenset({".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


def pictures_below(folder: Path) -> list[Path]:
    """Return every picture file under `folder`, also behind links, sorted by path."""
    return sorted(file for file in files_below(folder) if _is_picture(file))


def pictures_in(folder: Path) -> list[Path]:
    """Return every picture file directly in `folder`, sorted by path."""
    return sorted(file for file in folder.iterdir() if _is_picture(file))


def _is_picture(file: Path) -> bool:
    if file.suffix.lower() not in PICTURES or file.name.startswith("."):
        return False
    return file.is_file()


def read_pictures(
    folder: Path, name: str, classes: tuple[str, ...], category_ids: tuple[int, ...]
) -> ImageSet:
    """Read a folder of pictures as a set without labels.

    Raises:
        DataError: the folder is missing or holds no picture, or one cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pictures for {name!r} were expected here")
    paths = pictures_below(folder)
    if not paths:
        raise DataError(
            f"{folder}: no pictures in it; expected files ending in {', '.join(sorted(PICTURES))}"
        )
    images: list[LabeledImage] = []
    for number, path in enumerate(paths, 1):
        relative = path.relative_to(folder).as_posix()
        images.append(labeled_image(number, relative, photograph_size(path), (), ReadingNotes()))
    return ImageSet(
        name=name,
        source=f"folder {folder}, {len(paths)} pictures without labels",
        classes=classes,
        category_ids=category_ids,
        images=tuple(images),
        paths=tuple(paths),
    )
