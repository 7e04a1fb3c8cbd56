"""Whether picture files are whole: decoders fill what a cut file lacks with grey, and say nothing.

A download that stopped, into a file made at its full length before, leaves zeros in place of the
rest. Zeros are valid codes of JPEG and WebP, so such a file has its length and decodes.
"""

from collections.abc import Iterator
from pathlib import Path

_TAIL = 64  # bytes read of each file
_ZEROS = 4096  # bytes of zeros that the data of no WebP ends in
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def ends_plainly(path: Path, size: int) -> bool:
    """Whether the last bytes of a file of `size` bytes are its format's end.

    False where only `missing_end` can tell, as with data behind the end, and for formats that have
    no end.
    """
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    if head.startswith(_JPEG):
        return tail.rstrip(b"\0").endswith(b"\xff\xd9")
    if head.startswith(_PNG):
        return tail.endswith(b"IEND\xaeB`\x82")
    if head.startswith(b"GIF8"):
        return tail.rstrip(b"\0").endswith(b";")
    if head.startswith(b"RIFF"):
        return int.from_bytes(head[4:8], "little") + 8 <= size and any(tail)
    return head.startswith(b"BM") and int.from_bytes(head[2:6], "little") <= size


def missing_end(path: Path) -> str | None:
    """Return what a JPEG, PNG or WebP file lacks at its end, in words; None if it is whole.

    What lies behind the end, such as the film of a motion photo or a second picture, is allowed.
    """
    data = path.read_bytes()
    if data.startswith(_JPEG):
        lacks = None if _jpeg_ends(data) else "a JPEG without its end marker (FF D9)"
    elif data.startswith(_PNG):
        lacks = None if b"IEND" in _png_chunks(data) else "a PNG without its last chunk (IEND)"
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        lacks = None if _webp_ends(data) else "a WebP whose data end in zeros"
    else:
        return None
    zeros = len(data) - len(data.rstrip(b"\0"))
    if lacks and zeros > 1:
        lacks += f"; its last {zeros} bytes are zero, as a download that stopped leaves them"
    return lacks


def _jpeg_ends(data: bytes) -> bool:
    """Whether the end marker follows the pixels; one before them is that of a preview in EXIF."""
    place = 2
    while 0 <= place < len(data) - 4:
        if data[place] != 0xFF:
            place = data.find(b"\xff", place)
        elif data[place + 1] == 0xDA:  # in the pixels' data, FF stands before 00 and D0..D7 alone
            return data.find(b"\xff\xd9", place) >= 0
        elif data[place + 1] in (0x00, 0x01, 0xFF, *range(0xD0, 0xD8)):  # markers without a length
            place += 1
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return False


def _webp_ends(data: bytes) -> bool:
    end = min(len(data), int.from_bytes(data[4:8], "little") + 8)
    for kind, content in _riff_chunks(data[:end]):
        if kind == b"\0\0\0\0":
            return False
        is_pixels = kind in (b"VP8 ", b"VP8L", b"ANMF") and len(content) > _ZEROS
        if is_pixels and not any(content[-_ZEROS:]):
            return False
    return True


def _png_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the kind of each chunk."""
    place = len(_PNG)
    while place + 8 <= len(data):
        yield data[place + 4 : place + 8]
        place += 12 + int.from_bytes(data[place : place + 4], "big")


def _riff_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the content of each chunk; all begin at even places."""
    place = 12
    while place + 8 <= len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        yield data[place : place + 4], data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
