"""The encoding of a text file, by its byte order mark."""

import codecs

_MARKS = (  # UTF-32's marks begin like those of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(content: bytes) -> str:
    """Return the encoding that a byte order mark states; UTF-8 without one."""
    return next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
