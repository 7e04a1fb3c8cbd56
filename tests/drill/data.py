"""Damaged and odd data sets: good ones of every format, each changed in one way, then checked.

What is promised of each: `compress.run --check` ends with a documented exit code and one message,
leaves no exception behind, writes nothing and takes a few seconds; every object that the files hold
was kept or counted as left out; and where the change is harmless, the boxes are those that were
drawn.
"""

import importlib
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.data.image_set import ImageSet
from benchmarks.data.inspection import PictureCache
from compress.console import Console
from compress.data.config import Data, FolderConfig
from compress.data.pictures import look_at_pictures
from export.errors import DataError
from tests.drill.data_changes import DROPPED, HARMLESS, ODD, REFUSED
from tests.drill.data_sets import CLASSES, WRITERS, GoodSet, Photo, write_set
from tests.drill.judge import run

Expected = Literal["same", "counted", "refused", "any"]
FORMATS = tuple(WRITERS)
_SIDE = 64
_SECONDS = 5.0  # of the processor: the wall's depend on what else the machine does

_RECIPE = """\
schema: 1
name: drill
data: {{type: folder, root: {root}, image_size: 64{more}}}
teacher:
  detector: &tiny
    type: gfl
    backbone: {{type: slim_resnet, stem: 16, widths: [16, 16, 16, 16]}}
    width: 16
    head_depth: 1
    reg_max: 4
    strides: [8, 16]
    norm: group
  train: {{epochs: 1, batch: 2, evaluations: 1}}
student: *tiny
distill:
  - {{type: pkd}}
train: {{steps: 4, batch: 2, evaluations: 1}}
export: {{precisions: [fp32]}}
"""


@dataclass(frozen=True)
class Case:
    """One data set that was changed.

    Attributes:
        name: its format and what was changed.
        good: the set as it was written, and where.
        expected: `same` boxes as drawn; one more object that is `counted` as left out; `refused`;
            or `any` of these, whatever the change made of it.
    """

    name: str
    good: GoodSet
    expected: Expected


@dataclass
class Counts:
    """What came of the cases, and each promise that was not kept."""

    cases: int = 0
    accepted: int = 0
    refused: int = 0
    objects_left_out: int = 0
    broken: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the counts in one line."""
        return (
            f"data: {self.cases} sets, {self.accepted} accepted, {self.refused} refused, "
            f"{self.objects_left_out} objects left out and counted, "
            f"{len(self.broken)} promises broken"
        )


def cases(folder: Path, seed: int, count: int) -> Iterator[Case]:
    """Yield `count` changed sets below `folder`: every named change, then random ones."""
    named = _named()
    chance = random.Random(seed)
    chance.shuffle(named)
    for index in range(count):
        if index < len(named):
            fmt, name, expected, change = named[index]
        else:
            fmt, name, expected, change = chance.choice(FORMATS), "", "any", None
        good = write_set(fmt, folder / f"case{index:04d}" / "data", seed + index)
        if change is None:
            name = _at_random(good, chance)
        else:
            change(good, chance)
        yield Case(f"{index} {fmt}: {name}", good, expected)


def judge(case: Case, counts: Counts) -> list[str]:
    """Check one set; return the promises that were not kept."""
    root = case.good.root
    recipe = root.parent / "recipe.yaml"
    more = ", unlabeled: {path: unlabeled}" if case.good.format == "unlabeled" else ""
    recipe.write_text(_RECIPE.format(root=json.dumps(str(root)), more=more), encoding="utf-8")
    before = _listing(root.parent)
    runs = root.parent / "runs"
    importlib.import_module("compress.plan")  # seconds, once, and none of them the data's
    start = time.process_time()
    command = [str(recipe), "--check", "--runs", str(runs)]
    outcome = run("compress.run", command, limit=math.inf)
    broken = list(outcome.broken)
    seconds = time.process_time() - start
    if seconds > _SECONDS:
        broken.append(f"took {seconds:.1f} s of the processor")
    counts.cases += 1
    if _listing(root.parent) != before:
        broken.append("something was written")
    if outcome.code not in {0, 3}:
        broken.append(f"exit code {outcome.code}: {outcome.err[-200:]}")
    if len(re.findall("(?m)^error: ", outcome.err)) != (outcome.code == 3):
        broken.append(f"not one message: {outcome.err[-300:]}")
    if outcome.code == 3:
        counts.refused += 1
        if len(outcome.err) > 1500:
            broken.append(f"a message of {len(outcome.err)} characters")
        if case.expected in {"same", "counted"}:
            broken.append(f"refused: {outcome.err[-300:]}")
    if outcome.code == 0:
        counts.accepted += 1
        if case.expected == "refused":
            broken.append("accepted")
        broken += _hold(case, counts)
    return [f"{case.name}: {text}" for text in broken]


def _hold(case: Case, counts: Counts) -> list[str]:
    """Compare what is read with what was written."""
    try:
        data = FolderConfig(root=case.good.root, image_size=_SIDE).open()
    except DataError as error:
        return [f"valid in --check, then refused: {error}"]
    except Exception as error:
        return [f"an exception while reading: {error!r}"]
    broken = []
    for split, images in (("train", data.train), ("val", data.val)):
        tally = images.tally
        counts.objects_left_out += sum(tally.dropped.values())
        if tally.kept + sum(tally.dropped.values()) != tally.written:
            broken.append(f"{split}: counts do not add up: {tally}")
        if tally.kept != sum(len(image.labels) for image in images.images):
            broken.append(f"{split}: kept {tally.kept} is not what is there")
        if case.expected in {"same", "counted"}:
            broken += _compare(images, case.good.photos[split])
    if case.expected == "counted" and sum(data.train.tally.dropped.values()) != 1:
        broken.append(f"one object should be left out: {data.train.tally}")
    return broken + _decode(data)


def _compare(images: ImageSet, photos: tuple[Photo, ...]) -> list[str]:
    """Return how the boxes differ from the drawn ones, picture by picture in the set's order."""
    if set(images.classes) != set(CLASSES):
        return [f"{images.name}: classes {images.classes}"]
    if len(images) != len(photos):
        return [f"{images.name}: {len(images)} pictures, {len(photos)} were drawn"]
    for image, photo in zip(images.images, photos, strict=True):
        read = sorted(
            (images.classes[label], *(round(v) for v in box))
            for label, box in zip(image.labels.tolist(), image.boxes.tolist(), strict=True)
        )
        drawn = sorted((CLASSES[label], *box) for label, box in photo.objects)
        if read != drawn or (image.width, image.height) != (photo.width, photo.height):
            return [f"{images.name}, {image.file_name}: read {read}, drawn {drawn}"]
    return []


def _decode(data: Data) -> list[str]:
    """Decode every picture as a run does; a `DataError` is a right answer, any other is not."""
    try:
        with suppress(DataError):
            look_at_pictures([data], PictureCache(Path("/nowhere")), Console(), decode=True)
    except Exception as error:
        return [f"an exception while decoding: {error!r}"]
    return []


def _named() -> list[tuple[str, str, Expected, Any]]:
    found: list[tuple[str, str, Expected, Any]] = []
    for name, (formats, change) in HARMLESS.items():
        found += [(fmt, name, "same", change) for fmt in formats]
    for name, change in DROPPED.items():
        found += [(fmt, name, "counted", change) for fmt in FORMATS]
    for name, (formats, change) in REFUSED.items():
        found += [(fmt, name, "refused", change) for fmt in formats]
    return found


def _at_random(good: GoodSet, chance: random.Random) -> str:
    """Change one thing somewhere; return what."""
    files = [path for path in good.root.rglob("*") if path.is_file()]
    file = chance.choice([*good.texts(), *good.documents() * 4, chance.choice(files)])
    kinds = ["bytes", "cut", "token", "remove", "rename", "swap", "double"]
    kind = chance.choice([*kinds, *["tree"] * 6] if file.suffix == ".json" else kinds)
    content = file.read_bytes()
    if kind == "tree":
        document = json.loads(content)
        done = _mutate(document, chance)
        file.write_text(json.dumps(document), encoding="utf-8")
        return f"{file.name}: {done}"
    if kind == "bytes" and content:
        data = bytearray(content)
        for _ in range(chance.choice((1, 3, 30))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        file.write_bytes(bytes(data))
    elif kind == "cut":
        file.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif kind == "token":
        words = content.split(b" ")
        odd = str(chance.choice(ODD[:-1]))[:6000].encode("utf-8", "replace")
        words[chance.randrange(len(words))] = odd
        file.write_bytes(b" ".join(words))
    elif kind == "remove":
        file.unlink()
    elif kind == "rename":
        ending = chance.choice((".heic", ".bak", "", ".txt", ".JPG", ".jpeg"))
        file.rename(file.with_name(f"{chance.choice((file.stem, 'ä b', '.x'))}{ending}"))
    else:
        other = chance.choice(files)
        if kind == "swap":
            file.write_bytes(other.read_bytes())
        else:
            file.with_name(f"copy{file.suffix}").write_bytes(content)
    return f"{kind} of {file.relative_to(good.root)}"


def _mutate(tree: Any, chance: random.Random) -> str:
    """Replace, remove or double one entry of a tree of JSON; return what was done."""
    owner, key = chance.choice(list(_places(tree)))
    action = chance.choice(("replace", "replace", "remove", "double"))
    if action == "remove":
        del owner[key]
        return f"{key!r} removed"
    if action == "double" and isinstance(owner, list):
        owner.append(owner[key])
        return f"entry {key} doubled"
    owner[key] = chance.choice(ODD)
    return f"{key!r} is {str(owner[key])[:30]!r}"


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys: list[Any] = []
    if isinstance(tree, dict):
        keys = list(tree)
    elif isinstance(tree, list):
        keys = list(range(min(len(tree), 4)))
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def _listing(folder: Path) -> Counter[tuple[str, int]]:
    return Counter((str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*"))


def drill(folder: Path, seed: int, count: int) -> Counts:
    """Make and judge `count` data sets; return the counts."""
    counts = Counts()
    for case in cases(folder, seed, count):
        counts.broken += judge(case, counts)
    return counts
