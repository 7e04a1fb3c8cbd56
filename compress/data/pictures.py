"""Check the pictures of a run before its first training step."""

from collections.abc import Sequence

from benchmarks.data.image_set import ImageSet
from benchmarks.data.inspection import PictureCache, inspect_pictures, pictures_of
from compress.console import Console
from compress.data.config import Data

_MANY = 500  # pictures; fewer are read before a progress display would be
_SMALL = 16 << 20  # bytes of all files together; decoded in a second or two


def sets_of(several: Sequence[Data]) -> list[ImageSet]:
    """Return the splits of all data, each once."""
    sets = [one for data in several for one in (data.train, data.val, data.unlabeled) if one]
    return list({id(one): one for one in sets}.values())


def look_at_pictures(
    several: Sequence[Data], cache: PictureCache, console: Console, *, decode: bool
) -> None:
    """Read header and end of every picture, or decode it; show progress for large sets.

    Sets of up to 16 MiB are decoded in any case.

    Raises:
        DataError: a picture cannot be read, or has another size than its annotations state.
    """
    sets = sets_of(several)
    total, size = pictures_of(sets)
    decode = decode or size <= _SMALL
    if total < _MANY:
        inspect_pictures(sets, cache, decode=decode)
        return
    what = "decoding pictures" if decode else "reading picture headers"
    with console.progress(what, total) as shown:
        inspect_pictures(sets, cache, decode=decode, progress=shown.update)
