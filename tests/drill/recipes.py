"""Broken recipes: every key of every recipe mutated, in the file or by an override.

The recipes are those under recipes/, and small ones whose teachers run once.

`slimdet check` reads each one. It must refuse it with one message that says where, or accept it as
settings that make sense, within five seconds of processor time, and write nothing.
"""

import importlib
import math
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from compress.recipe import load_recipe
from export.reading.plain_yaml import read_yaml
from tests.compress.smoke import SMOKE
from tests.drill.judge import SECONDS, run
from tests.drill.teachers import taught_recipes

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))
PLACE = "XXPLACEXX"
# Values that no setting may take, and others that fit somewhere.
NEVER = (
    *(".nan", "-.inf", "1e400", "9" * 5000, "99999999999999999999999", "1e300", "&a [*a]"),
    *("*nothing", "!!int abc", "!!float x", "!!bool maybe", "!!timestamp x", "!!binary aGk="),
    *("!!set {x, y}", "!!omap [x: 1]", "!mine x", "!!python/object/apply:os.system [x]"),
    *('"\\e[31mred"', '"\\0"', '"a\\nb"', "[" * 300, "{a: " * 50, "{? [1] : 2}", "{null: 1}"),
    *("[a", "'", "{a: 1, a: 2}", "[&a [x,x,x,x,x,x,x,x], *a, *a, *a, {a: *b}]", "&x {<<: *x}"),
)
SOMETIMES = (
    *("", "null", "true", "no", "off", "y", "[]", "{}", "[[]]", "{a: 1}", "[null]", "-1", "0"),
    *("1", "1.5", "1e-3", "017", "0o17", "0x1F", "1:30", "1_000", "65536", "100000000000"),
    *("text", "x", "/etc/passwd", "../..", "~nobody_there/x", "x" * 3000, "'12'", "2024-01-01"),
    *("é", "auto", "none", "[1, 2]", "{type: gfl}", "{type: nothing}", "1e9", "8192"),
)
ODD_KEYS = (
    *("null", "true", "3", "[1, 2]", "{a: 1}", '"\\0"', '"\\e[2J"', "Upper[x]", "''"),
    "k" * 5000,
)
ODD_OVERRIDES = (
    *("{key}.={raw}", "={raw}", "{key}..x={raw}", "{key}", ".{key}={raw}"),
    "{key}.²={raw}",
)
INSERTED = (b"\0", b"\t", b"\xff", b"\x1b[2J", b"\n---\n", b"*x", b"&x", b"!", b"[", b"'")


@dataclass(frozen=True)
class Case:
    """One mutated recipe.

    Attributes:
        name: which recipe and key, and what was done to them.
        content: the file.
        overrides: settings of the command line.
        never: whether no recipe may be accepted so.
    """

    name: str
    content: bytes
    overrides: tuple[str, ...] = ()
    never: bool = False


@dataclass
class Counts:
    """What became of the recipes."""

    codes: Counter[int] = field(default_factory=Counter)
    keys: set[str] = field(default_factory=set)
    broken: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def line(self) -> str:
        """Return the counts in a sentence."""
        codes = ", ".join(f"{n} with exit code {code}" for code, n in sorted(self.codes.items()))
        return (
            f"{self.codes.total()} recipes: {codes}; at most {self.slowest:.1f} s of processor "
            f"time; {len(self.broken)} broken promises"
        )


def cases(seed: int, count: int, folder: Path) -> Iterator[Case]:
    """Yield mutated recipes; after as many as there are keys, every key has had its turn.

    What the recipes name is written into `folder`.
    """
    chance = random.Random(seed)
    texts = {path.stem: path.read_text(encoding="utf-8") for path in RECIPES} | {"smoke": SMOKE}
    texts |= taught_recipes(folder)
    trees = {name: read_yaml(text).value for name, text in texts.items()}
    places = [(name, keys) for name, tree in trees.items() for keys in _paths(tree)]
    made = 0
    while made < count:
        chance.shuffle(places)
        for name, keys in places[: count - made]:
            yield _mutated(chance, name, texts[name], trees[name], keys)
            made += 1


def _paths(tree: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in pairs:
        yield (*before, key)
        if isinstance(child, dict | list):
            yield from _paths(child, (*before, key))


def _mutated(chance: random.Random, name: str, text: str, tree: Any, keys: tuple[Any, ...]) -> Case:
    dotted = ".".join(map(str, keys))
    never = chance.random() < 0.4
    raw = chance.choice(NEVER if never else SOMETIMES)
    kind = chance.choice(("value", "value", "override", "override", "key", "drop", "text", "odd"))
    what = f"{name}: {dotted}: {kind} {raw[:40]!r}"
    if kind == "value":
        content = yaml.safe_dump(_put(tree, keys, PLACE), sort_keys=False).replace(PLACE, raw)
        return Case(what, content.encode(), never=never)
    if kind == "override":
        return Case(what, text.encode(), (f"{dotted}={raw}",), never)
    if kind == "odd":
        odd = chance.choice(ODD_OVERRIDES).format(key=dotted, raw=raw)
        return Case(f"{name}: {odd[:60]!r}", text.encode(), (odd,), never=True)
    if kind == "key" and isinstance(keys[-1], str):
        odd_key = chance.choice(ODD_KEYS)
        changed = _put(tree, (*keys[:-1], PLACE), 1)
        content = yaml.safe_dump(changed, sort_keys=False).replace(f"{PLACE}:", f"? {odd_key}\n: ")
        if len(keys) == 1:
            return Case(f"{name}: key {odd_key[:40]!r}", content.encode(), never=True)
        return Case(
            what, yaml.safe_dump(_put(tree, (*keys[:-1], "misspelt"), 1)).encode(), never=True
        )
    if kind == "drop":
        dropped = _put(tree, keys, None, drop=True)
        return Case(f"{name}: {dotted}: dropped", yaml.safe_dump(dropped).encode())
    spoilt = bytearray(text.encode())
    place = chance.randrange(len(spoilt))
    if chance.random() < 0.3:
        return Case(f"{name}: cut at {place}", bytes(spoilt[:place]))
    insert = chance.choice(INSERTED)
    spoilt[place:place] = insert
    return Case(f"{name}: {insert!r} at {place}", bytes(spoilt))


def _put(tree: Any, keys: tuple[Any, ...], value: Any, *, drop: bool = False) -> Any:
    """Return a copy of `tree` with `value` at `keys`, or without what stands there."""
    if not keys:
        return value
    first, rest = keys[0], keys[1:]
    if isinstance(tree, list):
        items = list(tree)
        if drop and not rest:
            del items[first]
        else:
            items[first] = _put(items[first], rest, value, drop=drop)
        return items
    found = dict(tree) if isinstance(tree, dict) else {}
    if drop and not rest:
        del found[first]
    else:
        found[first] = _put(found.get(first), rest, value, drop=drop)
    return found


def judge(case: Case, folder: Path, counts: Counts) -> None:
    """Check one recipe, and note every promise that was not kept."""
    file = folder / "recipe.yaml"
    file.write_bytes(case.content)
    before = set(folder.rglob("*"))
    start = time.process_time()
    options = [str(file), "--check", "--runs", str(folder / "runs"), "--device", "cpu", "--"]
    done = run("compress.run", [*options, *case.overrides], limit=math.inf)
    seconds = time.process_time() - start
    counts.slowest = max(counts.slowest, seconds)
    counts.codes[-1 if done.code is None else done.code] += 1
    problems = list(done.broken)
    if seconds > SECONDS:
        problems.append(f"took {seconds:.1f} s of processor time")
    if set(folder.rglob("*")) != before:
        problems.append("wrote files")
    if done.code:
        problems += _message_problems(done.err, done.code, str(file))
        # the recipe alone is right
        if done.code == 2 and case.overrides and "command line" not in done.err:
            problems.append(f"does not name the override: {done.err[:200]!r}")
    elif done.code == 0:
        if case.never:
            problems.append("accepted")
        problems += nonsense(load_recipe(file, case.overrides)[0].resolved())
    counts.broken += [f"{case.name}: {problem}" for problem in problems]


def _message_problems(said: str, code: int, file: str) -> list[str]:
    problems = []
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if len(errors) != 1:
        problems.append(f"{len(errors)} messages: {said[:200]!r}")
    elif code == 2 and not (file in errors[0] or "command line: " in errors[0]):
        problems.append(f"does not say where: {errors[0][:200]}")
    if "http" in said or "should be" in said:
        problems.append(f"a library's words: {said[:200]!r}")
    if len(said) > 20_000:
        problems.append(f"{len(said)} characters of messages")
    return problems


def nonsense(settings: Any, key: str = "") -> list[str]:
    """Return what an accepted recipe may not hold: numbers beyond all bounds, unsafe text."""
    if isinstance(settings, dict):
        return [p for name, value in settings.items() for p in nonsense(value, f"{key}.{name}")]
    if isinstance(settings, list):
        return [p for place, one in enumerate(settings) for p in nonsense(one, f"{key}[{place}]")]
    number = isinstance(settings, int | float) and not isinstance(settings, bool)
    if number and (not math.isfinite(settings) or abs(settings) > 2**32):
        return [f"accepted {key.lstrip('.')}: {settings}"]
    if isinstance(settings, str) and not settings.isprintable():
        return [f"accepted {key.lstrip('.')}: {settings!r}"]
    return []


def drill(folder: Path, seed: int, count: int) -> Counts:
    """Judge `count` mutated recipes in `folder`."""
    counts = Counts()
    importlib.import_module("compress.pipeline")  # loading torch is no part of the first case
    for case in cases(seed, count, folder / "given"):
        judge(case, folder, counts)
    return counts
