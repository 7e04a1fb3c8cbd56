"""Hostile and damaged stores of a teacher's outputs, given to `slimdet teach`.

A good store is made once. Every case is a copy of it whose files are changed, some with records
that say the changed content is right. What is promised: the store is made good, bit for bit, or
one message and a documented exit code; nothing is written but below the runs, and nobody waits.
"""

import hashlib
import json
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load, save

from compress.stages.teaching.costs import STORES
from compress.teaching.maps.store import FIXED
from export.atomic import read_checked_json, write_checked_json
from tests.compress.smoke import SMOKE
from tests.drill.judge import run

TEACH = "teach: {views: 2}\n"
Change = Callable[[Path, random.Random], object]


@dataclass
class Counts:
    """What became of the stores."""

    codes: Counter[int | None] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Return the counts in a sentence."""
        counted = sorted(self.codes.items(), key=str)
        codes = ", ".join(f"{number} with exit code {code}" for code, number in counted)
        return f"{self.codes.total()} stores: {codes}; {len(self.broken)} broken promises"


def drill(folder: Path, seed: int, count: int) -> Counts:
    """Judge `count` changed stores in `folder`."""
    recipe, good, counts = folder / "recipe.yaml", folder / "good", Counts()
    recipe.write_text(SMOKE + TEACH, encoding="utf-8")
    done = run("slimdet.__main__", ["teach", str(recipe), "--runs", str(good)], limit=60.0)
    assert done.code == 0, done.err
    expected = _tensors(good)
    assert expected
    for name, change, chance in cases(seed, count):
        runs = folder / "case" / "runs"
        shutil.copytree(good, runs, symlinks=True)
        (store,) = (runs / STORES).iterdir()
        change(store, chance)
        _judge(name, recipe, runs, expected, counts)
        shutil.rmtree(folder / "case")
    return counts


def cases(seed: int, count: int) -> Iterator[tuple[str, Change, random.Random]]:
    """Yield `count` changes, every kind in turn, with what each draws from."""
    for number in range(count):
        name = list(CHANGES)[number % len(CHANGES)]
        yield f"{number}: {name}", CHANGES[name], random.Random(f"{seed} {number}")


def _judge(name: str, recipe: Path, runs: Path, expected: dict[str, str], counts: Counts) -> None:
    before = {path for path in recipe.parent.rglob("*") if runs not in path.parents}
    done = run("slimdet.__main__", ["teach", str(recipe), "--runs", str(runs)], limit=20.0)
    counts.codes[done.code] += 1
    problems = list(done.broken)
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    if done.code == 0 and _tensors(runs) != expected:
        problems.append("the store is not that of the teacher")
    if done.code and len(errors) != 1:
        problems.append(f"{len(errors)} messages: {done.err[-300:]!r}")
    if {path for path in recipe.parent.rglob("*") if runs not in path.parents} != before:
        problems.append("wrote files elsewhere")
    counts.broken += [f"{name}: {problem}" for problem in problems]


def _tensors(runs: Path) -> dict[str, str]:
    """Return the hashes of the files of a store."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((runs / STORES).glob("*/*.safetensors"))
        if path.is_file()
    }


def _part(store: Path) -> Path:
    return store / "part-00000.safetensors"


def _forged(store: Path, content: bytes) -> None:
    """Write a part, and its hash into its record."""
    _part(store).write_bytes(content)
    path = _part(store).with_suffix(".json")
    record = read_checked_json(path)
    assert isinstance(record, dict)
    write_checked_json({**record, "sha256": hashlib.sha256(content).hexdigest()}, path)


def _header(store: Path, chance: random.Random) -> None:
    """Change an entry of a part's header."""
    content = _part(store).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = chance.choice(sorted(header.keys() - {"__metadata__"}))
    entry = header[name]
    odd: tuple[object, ...] = (None, [], -1, 2**70, "x", {}, [0, 2**62], [2**62, 0], [1, 2, 3])
    key = chance.choice(("dtype", "shape", "data_offsets", "name", "gone", "entry"))
    if key == "gone":
        del header[name]
    elif key == "name":
        header["features.99"] = header.pop(name)
    elif key == "entry":
        header[name] = chance.choice(odd)
    else:
        entry[key] = chance.choice((*odd, "F64", "BF16"))
    text = json.dumps(header).encode()
    _forged(store, len(text).to_bytes(8, "little") + text + content[8 + length :])


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 3, 30))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(content))


def _any(store: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(path for path in store.iterdir() if path.is_file()))


def _replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def _swapped(store: Path, chance: random.Random) -> None:
    first, second = chance.sample(sorted(store.iterdir()), 2)
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def _linked(store: Path, chance: random.Random) -> None:
    path = _any(store, chance)
    target = store.parent.parent / f"outside-{path.name}"
    path.replace(target)
    path.symlink_to(target)


def _file_for(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"x")


def _moved(store: Path) -> None:
    """Move a store, and leave a link to where it is now."""
    moved = store.parent.parent / "moved"
    store.replace(moved)
    store.symlink_to(moved)


def _not_numbers(store: Path) -> bytes:
    tensors = load(_part(store).read_bytes())
    return save({name: torch.full_like(value, float("nan")) for name, value in tensors.items()})


CHANGES: dict[str, Change] = {
    "a cut file": lambda store, chance: os.truncate(
        path := _any(store, chance), chance.randrange(path.stat().st_size)
    ),
    "a cut part with its hash": lambda store, chance: _forged(
        store, (content := _part(store).read_bytes())[: chance.randrange(len(content))]
    ),
    "a changed header with its hash": _header,
    "flipped bits": lambda store, chance: _flip(_any(store, chance), chance),
    "a part of random bytes with its hash": lambda store, chance: _forged(
        store, chance.randbytes(chance.choice((1, 8, 9, 5000)))
    ),
    "NaN": lambda store, _: _part(store).write_bytes(_not_numbers(store)),
    "swapped files": _swapped,
    "a link": _linked,
    "a link to nothing": lambda store, chance: _replaced(
        _any(store, chance), lambda path: path.symlink_to(store / "nothing")
    ),
    "a link to itself": lambda store, chance: _replaced(
        _any(store, chance), lambda path: path.symlink_to(path.name)
    ),
    "a folder in place of a file": lambda store, chance: _replaced(
        _any(store, chance), lambda path: path.mkdir()
    ),
    "a pipe in place of a file": lambda store, chance: _replaced(_any(store, chance), os.mkfifo),
    "a file that is gone": lambda store, chance: _any(store, chance).unlink(),
    "a file in place of the store": lambda store, _: _file_for(store),
    "a file in place of all stores": lambda store, _: _file_for(store.parent),
    "a link in place of the store": lambda store, _: _moved(store),
    "anchors of another teacher": lambda store, _: (store / FIXED).write_bytes(
        save({"anchors.0": torch.zeros(1)})
    ),
    "another record": lambda store, chance: (
        _part(store)
        .with_suffix(".json")
        .write_bytes(chance.choice((b"{}", b"[]", b"null", b"[" * 9999, b"\xff", b'{"sha256": 1}')))
    ),
}
