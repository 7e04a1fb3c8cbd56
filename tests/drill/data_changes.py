"""Changes of a data set: harmless ones, ones that leave objects out, fatal ones, random ones."""

import json
import random
import re
import shutil
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.drill.data_sets import GoodSet

Change = Callable[[GoodSet, random.Random], object]
COCO = ("coco", "roboflow", "unlabeled")
XML = ("voc", "labelimg")
ALL = (*COCO, *XML, "yolo")
STATED = (*COCO, *XML)  # formats that state the size of a picture

DEEP: list[Any] = []
for _ in range(50):
    DEEP = [DEEP]
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.0, 2.5, 1e308, float("nan"), float("inf"), 10**400, 2**64),
    *("", " ", "\0", "1", "x" * 5000, "\x1b[31mred", "a\nb", "../../etc/passwd", "/etc/passwd"),
    *("C:\\x.png", "\udcff", "NaN", [], {}, [[]], {"a": 1}, [None], [1, 2], DEEP),
)


def _edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document), encoding="utf-8")


def _everywhere(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(good: GoodSet, _: random.Random) -> None:
        for file in good.documents():
            _edit(file, change)

    return apply


def _in_first(change: Callable[[dict[str, Any]], object]) -> Change:
    return lambda good, _: _edit(good.documents()[0], change)


def _replaced(pattern: str, by: str, count: int = 0) -> Change:
    """Replace text in all annotation files of single pictures and in descriptions."""

    def apply(good: GoodSet, _: random.Random) -> None:
        for file in good.texts():
            text = file.read_text(encoding="utf-8")
            file.write_text(re.sub(pattern, by, text, count=count), encoding="utf-8")

    return apply


def _encoded(encoding: str, ends: str = "\n") -> Change:
    def apply(good: GoodSet, chance: random.Random) -> None:
        for file in chance.sample(good.texts(), 2):
            text = file.read_text(encoding="utf-8").replace("\n", ends)
            file.write_bytes(text.encode(encoding))

    return apply


def _renamed(suffix: str) -> Change:
    def apply(good: GoodSet, _: random.Random) -> None:
        files = good.pictures() if suffix == ".png" else good.labels()
        for path in files:
            path.rename(path.with_suffix(suffix.upper()))

    return apply


def _decomposed(good: GoodSet, _: random.Random) -> None:
    for path in good.pictures():
        path.rename(path.with_name(unicodedata.normalize("NFD", path.name)))


def _linked(good: GoodSet, _: random.Random) -> None:
    folder = good.pictures()[0].parent
    store = good.root.parent / "store"
    folder.rename(store)
    folder.symlink_to(store, target_is_directory=True)
    if good.format != "labelimg":
        (store / "round").symlink_to(good.root, target_is_directory=True)


def _mac(good: GoodSet, _: random.Random) -> None:
    for path in [*good.texts(), *good.pictures()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (good.pictures()[0].parent / ".DS_Store").write_bytes(b"\0")


def _notebook(good: GoodSet, _: random.Random) -> None:
    first = good.pictures()[0]
    folder = first.parent / ".ipynb_checkpoints"
    folder.mkdir()
    shutil.copy(first, folder / first.name)


def _turned(good: GoodSet, chance: random.Random) -> None:
    path = chance.choice(good.pictures())
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(path) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)


def _names_map(good: GoodSet, _: random.Random) -> None:
    file = good.root / "data.yaml"
    text = file.read_text().replace("[ant, bee, cat]", "{'1': bee, '0': ant, 2: cat}")
    file.write_text(text)


def _floats(document: dict[str, Any]) -> None:
    for part in ("images", "annotations", "categories"):
        for entry in document[part]:
            entry |= {k: float(v) for k, v in entry.items() if k.endswith("id") or k == "width"}


def _gaps(document: dict[str, Any]) -> None:
    for entry in document["categories"]:
        entry["id"] = entry["id"] * 7
    for entry in document["annotations"]:
        entry["category_id"] *= 7


def _names(prefix: str) -> Change:
    def change(document: dict[str, Any]) -> None:
        for entry in document["images"]:
            entry["file_name"] = prefix + entry["file_name"]

    return _everywhere(change)


HARMLESS: dict[str, tuple[tuple[str, ...], Change]] = {
    "nothing": (ALL, lambda *_: None),
    "byte order mark": (ALL, _encoded("utf-8-sig")),
    "utf-16": (ALL, _encoded("utf-16")),
    "carriage returns": (ALL, _encoded("utf-8", "\r\n")),
    "endings in capitals": (ALL, _renamed(".png")),
    "label endings in capitals": (
        (*XML, "yolo"),
        lambda g, c: _renamed(g.labels()[0].suffix)(g, c),
    ),
    "decomposed names": (ALL, _decomposed),
    "linked folder": (ALL, _linked),
    "mac files": (ALL, _mac),
    "notebook copies": (ALL, _notebook),
    "turned picture": (ALL, _turned),
    "quoted numbers of names": (("yolo",), _names_map),
    "windows folders": (("yolo",), _replaced("images/", r"images\\\\")),
    "folders of another machine": (("yolo",), _replaced(": images/", ": /content/set/images/")),
    "names of another machine": (COCO, _names("/home/u/set/pictures/")),
    "names of windows": (COCO, _names("C:\\set\\")),
    "ids with a point": (COCO, _everywhere(_floats)),
    "gaps between ids": (COCO, _everywhere(_gaps)),
    "crowd as a word": (COCO, _replaced('"iscrowd": 0', '"iscrowd": "false"')),
    "difficult as a word": (XML, _replaced("<difficult>0<", "<difficult> No <")),
    "unknown keys": (COCO, _everywhere(lambda d: d.update(note="x" * 1_000_000, deep=DEEP))),
    "class of a yaml word": (
        ("yolo",),
        _replaced(r"nc: 3\n", "nc: 3\nnotes: &a [no, ~]\nother: *a\n"),
    ),
}


def _appended(bbox: tuple[float, ...], line: str, xml: tuple[float, ...]) -> Change:
    """Add one object to the first picture of train."""

    def apply(good: GoodSet, _: random.Random) -> None:
        if good.format in COCO:
            file = next(f for f in good.documents() if "train" in str(f.relative_to(good.root)))
            entry = {"id": 9999, "image_id": 1, "category_id": 1, "bbox": list(bbox)}
            _edit(file, lambda document: document["annotations"].append(entry))
            return
        label = next(path for path in good.labels() if path.stem == good.photos["train"][0].stem)
        text = label.read_text(encoding="utf-8")
        if good.format == "yolo":
            label.write_text(text + line + "\n", encoding="utf-8")
            return
        corners = zip(("xmin", "ymin", "xmax", "ymax"), xml, strict=True)
        box = "".join(f"<{name}>{value}</{name}>" for name, value in corners)
        thing = f"<object><name>ant</name><bndbox>{box}</bndbox></object></annotation>"
        label.write_text(text.replace("</annotation>", thing), encoding="utf-8")

    return apply


# Each adds one object that has to be left out and counted.
DROPPED: dict[str, Change] = {
    "no width": _appended((3, 3, 0, 5), "0 .5 .5 0 .1", (5, 5, 4, 9)),
    "negative height": _appended((3, 9, 5, -4), "0 .5 .5 .1 -.2", (5, 9, 9, 3)),
    "outside": _appended((500, 3, 5, 5), "0 1.4 1.4 .1 .1", (500, 3, 505, 8)),
}


def _all_crowd(good: GoodSet, chance: random.Random) -> None:
    if good.format in COCO:
        _replaced('"iscrowd": 0', '"iscrowd": 1')(good, chance)
    else:
        _replaced("<difficult>0<", "<difficult>True<")(good, chance)


def _bomb(path: Path) -> None:
    head = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + bytes(40))


def _spoilt(spoil: Callable[[Path], object]) -> Change:
    return lambda good, chance: spoil(chance.choice(good.pictures("val")))


def _scaled(path: Path) -> None:
    with Image.open(path) as image:
        image.resize((image.width // 2, image.height)).save(path)


def _entities(encoding: str) -> Change:
    def apply(good: GoodSet, chance: random.Random) -> None:
        file = chance.choice(good.labels())
        head = '<!DOCTYPE z [<!ENTITY a "ant"><!ENTITY b "&a;&a;&a;">]>'
        text = f'<?xml version="1.0" encoding="{encoding}"?>{head}' + file.read_text("utf-8")
        file.write_bytes(text.encode(encoding))

    return apply


def _no_link(good: GoodSet, _: random.Random) -> None:
    (good.root / "images" / "train" / "cam2").write_text("../../../store/cam2")


def _number(text: str) -> Change:
    """Put `text` where a coordinate stands."""
    patterns = {
        "yolo": (r"(?m)^(\d) \S+", rf"\1 {text}"),
        "voc": (r"<xmin>\d+", f"<xmin>{text}"),
        "coco": (r'"bbox": \[\d+', f'"bbox": [{text}'),
    }

    def apply(good: GoodSet, _: random.Random) -> None:
        kind = "coco" if good.format in COCO else "voc" if good.format in XML else "yolo"
        files = good.documents() if kind == "coco" else good.labels()
        file = next(f for f in files if re.search(patterns[kind][0], f.read_text("utf-8")))
        changed = re.sub(*patterns[kind], file.read_text(encoding="utf-8"), count=1)
        file.write_text(changed, encoding="utf-8")

    return apply


def _class_name(name: str) -> Change:
    def apply(good: GoodSet, chance: random.Random) -> None:
        if good.format in COCO:
            _in_first(lambda d: d["categories"][1].update(name=name))(good, chance)
        elif good.format == "yolo":
            _replaced(r"\[ant", f"[{json.dumps(name)}".replace("\\", r"\\"))(good, chance)
        else:
            escaped = "".join(f"&#{ord(one)};" for one in name)
            _replaced("<name>ant<", f"<name>{escaped}<")(good, chance)

    return apply


REFUSED: dict[str, tuple[tuple[str, ...], Change]] = {
    "picture of no bytes": (ALL, _spoilt(lambda path: path.write_bytes(b""))),
    "picture is a text": (ALL, _spoilt(lambda path: path.write_text("hello"))),
    "picture is a bomb": (ALL, _spoilt(_bomb)),
    "picture of another size": (STATED, _spoilt(_scaled)),
    "picture is gone": (STATED, _spoilt(Path.unlink)),
    "all boxes are crowd": (STATED, _all_crowd),
    "entities": (XML, _entities("utf-8")),
    "entities in utf-16": (XML, _entities("utf-16")),
    "lost link": (("yolo",), _no_link),
    "number nan": (ALL, _number("NaN")),
    "number infinity": (ALL, _number("Infinity")),
    "number of 400 digits": (ALL, _number("9" * 400)),
    "number of 5000 digits": (ALL, _number("9" * 5000)),
    "number is a word": (ALL, _number("true")),
    "class with a line break": (ALL, _class_name("a\nb")),
    "class with a paragraph end": (ALL, _class_name("a\u2029b")),
    "class with a direction": (ALL, _class_name("a\u202eb")),
    "class of 9000 letters": (ALL, _class_name("x" * 9000)),
    "class that steers terminals": ((*COCO, "yolo"), _class_name("\x1b[31mred")),
    "class null": (("yolo",), _replaced("bee", "null")),
    "class twice": (("yolo",), _replaced("bee", "ant")),
    "deep json": (COCO, lambda g, _: g.documents()[0].write_text("[" * 100_000)),
    "deep yaml": (("yolo",), _replaced("names: .*", "names: " + "[" * 2000)),
    "a tag": (("yolo",), _replaced("nc: 3", "nc: !!python/object/apply:os.system [true]")),
    "split is a picture": (
        ("yolo",),
        lambda g, c: _replaced("val: images/val", f"val: {g.pictures()[0]}")(g, c),
    ),
    "split is another file": (("yolo",), _replaced("val: images/val", "val: /etc/passwd")),
    "split is nowhere": (("yolo",), _replaced("val: images/val", f"val: {'y' * 5000}")),
    "difficult is odd": (XML, _replaced("<difficult>0<", "<difficult>maybe<")),
    "crowd is odd": (COCO, _replaced('"iscrowd": 0', '"iscrowd": 7')),
    "class that is not there": (("yolo",), _number("0.5 0.5 0.5 0.5\n7 0.5 ")),
    "group as a list": (
        COCO,
        _everywhere(lambda d: d["categories"][1].update(supercategory=["a"])),
    ),
    "box of five": (COCO, _replaced(r'"bbox": \[', '"bbox": [1, ')),
}
