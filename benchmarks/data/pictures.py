"""Plain folders of pictures, without labels."""

from pathlib import Path

from benchmarks.data.annotations import ReadingNotes, note_other_files
from benchmarks.data.image_set import ImageSet, LabeledImage, labeled_image
from benchmarks.data.parts.frames import Frame
from export.errors import DataError, counted
from export.pictures.files import USUAL, files_below, is_file, is_picture_name
from export.pictures.images import picture_header


def read_pictures(
    folder: Path, name: str, classes: tuple[str, ...], category_ids: tuple[int, ...]
) -> ImageSet:
    """Read a folder of pictures as a set without labels.

    Raises:
        DataError: the folder is missing or holds no picture, or one cannot be read.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pictures for {name!r} were expected here")
    files, notes = sorted(files_below(folder)), ReadingNotes()
    paths = [file for file in files if is_picture_name(file) and is_file(file)]
    if not paths:
        raise DataError(f"{folder}: no pictures in it; expected files ending in {USUAL} or others")
    note_other_files(files, notes)
    images: list[LabeledImage] = []
    for number, path in enumerate(paths, 1):
        relative = path.relative_to(folder).as_posix()
        header = picture_header(path)
        frame = Frame(*header.upright, several=header.several)
        images.append(labeled_image(number, relative, frame, (), notes))
    return ImageSet(
        name=name,
        source=f"folder {folder}, {counted(len(paths), 'picture')} without labels",
        classes=classes,
        category_ids=category_ids,
        images=tuple(images),
        paths=tuple(paths),
        notes=notes.sentences(),
        tally=notes.tally(),
    )
