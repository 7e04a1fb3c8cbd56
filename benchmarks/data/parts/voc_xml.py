"""One XML file of Pascal VOC."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

from benchmarks.data.parts.class_names import checked_name
from benchmarks.data.parts.text import refuse_no_file
from benchmarks.data.parts.values import flag, number, number_in
from export.errors import DataError, shown

_MOST_BYTES = 1 << 26


class VocObject(NamedTuple):
    """One object as it stands."""

    name: str
    box: tuple[float, float, float, float]  # xyxy edges, pixels
    difficult: bool


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type, in which entities are declared, before anything is expanded."""

    def doctype(self, *_: str | None) -> None:
        """Raise; the parser calls this in whatever encoding the file is."""
        raise _DoctypeError


class _DoctypeError(Exception):
    pass


def read_xml(file: Path) -> tuple[tuple[int, int] | None, tuple[VocObject, ...]]:
    """Return the stated (width, height), None where it is not, and the objects.

    VOC's pixels are 1-based and inclusive; the returned edges are `xmin - 1, ymin - 1, xmax, ymax`.

    Raises:
        DataError: naming the file, and what is wrong in it.
    """
    root = _parsed(file)
    if root.tag != "annotation":
        found = "another element" if file.is_symlink() else f"<{shown(root.tag)[1:-1]}>"
        raise DataError(f"{file}: not Pascal VOC: root is {found}, expected <annotation>")
    size = None
    if root.find("size/width") is not None:
        width, height = (_number(root, f"size/{side}", f"{file}:") for side in ("width", "height"))
        if width > 0 and height > 0:  # some tools write 0 for "not known"
            if not (width.is_integer() and height.is_integer()):
                raise DataError(f"{file}: size {width:g} x {height:g}; expected whole pixels")
            size = (int(width), int(height))
    objects = []
    for place, entry in enumerate(root.findall("object"), 1):
        where = f"{file}: object {place}"
        for key in ("name", "difficult"):
            _refuse_second(entry, key, where)
        name = (entry.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{where} has no name")
        box = _box(entry, where)
        said = entry.findtext("difficult")
        difficult = flag(said)
        if difficult is None:
            raise DataError(f"{where}: difficult is {shown(said)}; expected 0 or 1")
        objects.append(VocObject(checked_name(name, where), box, difficult))
    return size, tuple(objects)


def _parsed(file: Path) -> ElementTree.Element:
    refuse_no_file(file, "the annotations of a picture")
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise DataError(f"{file}: over {_MOST_BYTES >> 20} MiB, too large for one picture")
        parser = ElementTree.XMLParser(target=_NoDoctype())
        return ElementTree.fromstring(file.read_bytes(), parser)
    except _DoctypeError:
        raise DataError(
            f"{file}: holds a DOCTYPE, which annotations do not need; remove it"
        ) from None
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as error:
        said = shown(str(error), 120)[1:-1] or "empty"
        raise DataError(f"{file}: cannot be read as XML: {said}") from None


def _box(entry: ElementTree.Element, where: str) -> tuple[float, float, float, float]:
    """Return the edges of an object's only box."""
    found = entry.find("bndbox")
    if found is None:
        there = shown(", ".join(dict.fromkeys(child.tag for child in entry)))[1:-1]
        raise DataError(
            f"{where} has no <bndbox>, and nothing else is read as a box (it has {there}); write "
            "the box around it, or remove the object"
        )
    _refuse_second(entry, "bndbox", where)
    edges = ("xmin", "ymin", "xmax", "ymax")
    for edge in edges:
        _refuse_second(found, edge, f"{where}: bndbox")
    x1, y1, x2, y2 = (_number(entry, f"bndbox/{edge}", f"{where}:") for edge in edges)
    return x1 - 1, y1 - 1, x2, y2


def _refuse_second(element: ElementTree.Element, key: str, where: str) -> None:
    count = len(element.findall(key))
    if count > 1:
        hint = "; write an <object> for each box" if key == "bndbox" else ""
        raise DataError(f"{where} has {count} <{key}>; expected one{hint}")


def _number(element: ElementTree.Element, key: str, where: str) -> float:
    text = element.findtext(key)
    value = number(number_in(text))
    if value is None:
        raise DataError(f"{where} {key} is {shown(text)}; expected a number")
    return value
