"""Origin of each setting of a recipe, and validation errors described by file, line and key."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from compress.reading.setting_types import (
    Kinds,
    alternatives,
    fields,
    is_branch_name,
    members,
    names,
    tagged,
    tags,
)
from export.config import ClashError
from export.errors import RecipeError, counted, printable, shown
from export.reading.mistakes import brief, described
from export.reading.plain_yaml import Key, dotted

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Tree = dict[str, JsonValue]  # a recipe as plain data

MOST_LINES = 20  # mistakes that a message lists
MOST_NAMED = 3  # overrides that the place of one lists
# Mistakes of a value whose kind is one of those expected.
_OF_VALUES = frozenset({"value_error", "greater_than", "greater_than_equal", "less_than"})
_OF_VALUES |= {"less_than_equal", "multiple_of", "finite_number", "assertion_error"}
MOST_SUGGESTED = 60  # characters of a word for which a near one is looked for


@dataclass(frozen=True)
class Source:
    """The origin of a recipe's settings.

    Attributes:
        path: file of the recipe; None for one that was given in Python.
        text: content of the file, YAML.
        overrides: `key=value` settings of the command line.
        kind: the settings class of the whole.
        node: the YAML, with line numbers.
        tree: all settings, overrides included.
        changed: path of a setting -> override that set it, cut to what a message shows.
    """

    path: Path | None
    text: str
    overrides: tuple[str, ...]
    kind: type[BaseModel]
    node: yaml.Node
    tree: Tree
    changed: Mapping[Key, str]

    def at(self, *keys: str | int, beside: Iterable[Key] = ()) -> str:
        """Return `file:line: key`, the key alone without a file, or the override that set it.

        Args:
            keys: path of a setting.
            beside: paths of others that a mistake is about. Overrides that set one of them, or a
                part of one, are named as well.
        """
        own = self._override(keys)
        inside = () if own or self._is_section(keys) else (keys,)
        others = [
            text
            for path, text in self.changed.items()
            if text != own and any(_share_a_path(path, one) for one in (*inside, *beside))
        ]
        if own is None and others and inside and not _stands(self.node, keys):
            own = others.pop(0)
        if own is not None:
            return f"command line: {_listed([own, *others])}: {dotted(keys)}"
        if self.path is None:
            place = dotted(keys) or "recipe"
        else:
            place = f"{self.path}:{line_of(self.node, keys)}: {dotted(keys)}".removesuffix(": ")
        return f"{place} (with {_listed(others)} of the command line)" if others else place

    def among(self, *paths: Key) -> str:
        """Return the place of a rule over the settings at `paths`, the one to change first.

        It is that of the first one that is given at all.
        """
        given = [path for path in paths if _stands(self.node, path) or self._override(path)]
        if not given or len(paths) == 1:
            return self.at(*_shared_path(paths))
        return self.at(*given[0], beside=[path for path in paths if path != given[0]])

    def _override(self, keys: Key) -> str | None:
        """Return the override that set the setting at `keys`, or a section that holds it."""
        found = [self.changed.get(keys[:depth]) for depth in range(len(keys), 0, -1)]
        return next((text for text in found if text is not None), None)

    def _is_section(self, keys: Key) -> bool:
        """Whether the file holds a section at `keys`."""
        return isinstance(_node_at(self.node, keys), yaml.MappingNode)

    def explain(self, error: ValidationError) -> RecipeError:
        """Describe the mistakes that validation found in the settings, a line each."""
        details, describer = error.errors(include_url=False), _Describer(self, self.kind)
        unlike = describer.unlike(details)
        single = [one for one in details if not any(one in group for _, group in unlike)]
        lines = [line for one in single for line in describer.lines(one)]
        lines += [line for keys, group in unlike for line in describer.together(keys, group)]
        if not lines:  # every branch of a union left the mistake to another one
            lines = [line for one in details for line in describer.lines(one, every=True)]
        lines = list(dict.fromkeys(lines))
        if len(lines) > MOST_LINES:
            lines = [*lines[:MOST_LINES], f"and {counted(len(lines) - MOST_LINES, 'more mistake')}"]
        return RecipeError(*lines)


@dataclass(frozen=True)
class _Describer:
    """Describes validation errors of `kind` by the keys of the recipe."""

    source: Source
    kind: type[BaseModel]

    def lines(self, error: "ErrorDetails", *, every: bool = False) -> Iterator[str]:
        """Yield the line of a mistake; none when another branch of a union explains it better.

        With `every` there is one in any case.
        """
        keys, value, types_here, parent = self._walk(
            error["loc"], error["type"] == "extra_forbidden"
        )
        if self._is_other_branch(error, value) and not every:
            return
        least = error.get("ctx", {}).get("min_length", 0)
        if error["type"] == "too_short" and isinstance(value, list) and len(value) >= least:
            return  # pydantic counts the entries without mistakes; the others have lines
        broken = error.get("ctx", {}).get("error")
        if isinstance(broken, ClashError):
            place = self.source.among(*(_resolved(keys, path) for path in broken.paths))
        else:  # what may stand there depends on the `type` of each section around
            kinds = [(*keys[:depth], "type") for depth in range(len(keys) + 1)]
            place = self.source.at(*keys, beside=[one for one in kinds if one != keys])
        yield f"{place}: {_reword(error, value, types_here, parent)}"

    def unlike(self, errors: list["ErrorDetails"]) -> list[tuple[Key, list["ErrorDetails"]]]:
        """Return the settings of unlike kinds, such as a number or a list, and their mistakes."""
        found: dict[Key, list[ErrorDetails]] = {}
        for error in errors:
            keys = self._walk(error["loc"], error["type"] == "extra_forbidden")[0]
            kinds: Kinds = [self.kind]
            for depth, key in enumerate(keys, start=1):
                if alternatives(kinds, key):
                    found.setdefault(keys[:depth], []).append(error)
                    break
                kinds = fields(kinds, key)
        return list(found.items())

    def together(self, keys: Key, errors: list["ErrorDetails"]) -> Iterator[str]:
        """Yield the lines of a setting of unlike kinds: of its limits, else one of its kinds."""
        limits = [one for one in errors if one["type"] in _OF_VALUES]
        lines = [line for one in limits for line in self.lines(one)]
        if lines:
            yield from lines
            return
        kinds: Kinds = [self.kind]
        value: JsonValue = self.source.tree
        for key in keys[:-1]:
            kinds, value = fields(kinds, key), _entry(value, key)
        given = _entry(value, keys[-1])
        shown_as = brief(given) if given is None else _written(given)
        expected = alternatives(kinds, keys[-1])
        yield f"{self.source.at(*keys)}: expected {expected}, found {shown_as}"

    def _walk(self, loc: Key, to_key: bool) -> tuple[Key, JsonValue, Kinds, Kinds]:
        """Follow `loc` through file and types; drop the union tags that only pydantic sees.

        With `to_key` the last part is a key of the file in any case, whatever it is called.
        """
        keys: list[str | int] = []
        value: JsonValue = self.source.tree
        kinds: Kinds = [self.kind]
        parents: Kinds = []
        for number, part in enumerate(loc):
            is_key = to_key and number == len(loc) - 1
            chosen = [k for k in kinds if tagged(k, str(part))]
            if not is_key and chosen and len(kinds) > 1 and _entry(value, "type") == part:
                kinds = chosen  # a tag, though the section may have a key of that name
                continue
            is_tag = isinstance(part, str) and not (
                is_key or (isinstance(value, dict) and part in value and fields(kinds, part))
            )
            if is_tag and value is not None and not isinstance(value, dict | list):
                continue  # a tag that tells alternatives for one scalar apart
            if is_tag:
                if chosen and not fields(kinds, str(part)):
                    kinds = chosen
                    continue
                if not fields(kinds, str(part)) and is_branch_name(str(part)):
                    continue
            keys.append(part)
            parents = kinds
            kinds = fields(kinds, part) or kinds[:0]
            value = _entry(value, part)
        return tuple(keys), value, kinds, parents or kinds

    def _is_other_branch(self, error: "ErrorDetails", value: JsonValue) -> bool:
        """Whether another branch of a union explains the mistake.

        Where text or a mapping may stand and a mapping is given, the mapping's errors count alone.
        """
        parts = [str(part) for part in error["loc"]]
        last = parts[-1] if parts else ""
        scalar = last in {"str", "int", "float", "bool"}
        scalar = scalar or last.startswith(("function-", "constrained-"))
        if isinstance(value, dict | list):
            return scalar
        if error["type"] in {"tuple_type", "list_type"} and "[" in last:
            return True  # a list may stand here too; the other branch's limit is meant
        is_number = isinstance(value, int | float)
        if is_number and error["type"] == "literal_error" and last.startswith("literal["):
            return True  # a word may stand here too
        return (
            error["type"] in {"model_type", "model_attributes_type"}
            and not isinstance(value, dict)
            and any(is_branch_name(n) for n in parts)
            and value is not None
        )


def _entry(value: JsonValue, key: str | int) -> JsonValue:
    """Return the entry of a section or a list, or None."""
    if isinstance(value, dict):
        return value.get(str(key))
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        return value[key]
    return None


def _written(value: JsonValue) -> str:
    """Write a value as JSON, cut; what is large by its size."""
    text = printable(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= MOST_SUGGESTED else brief(value)


def _stands(node: yaml.Node, keys: Key) -> bool:
    """Whether the file holds `keys`."""
    return _node_at(node, keys) is not None


def _node_at(node: yaml.Node, keys: Key) -> yaml.Node | None:
    """Return what the file holds at `keys`."""
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            children = {name.value: child for name, child in node.value}
            if key not in children:
                return None
            node = children[key]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
        else:
            return None
    return node


def _share_a_path(one: Key, other: Key) -> bool:
    """Whether one of two settings is the other or a part of it."""
    depth = min(len(one), len(other))
    return one[:depth] == other[:depth]


def _shared_path(paths: Sequence[Key]) -> Key:
    """Return the path of the innermost section that holds all `paths`."""
    parts = takewhile(lambda keys: len(set(keys)) == 1, zip(*paths, strict=False))
    return tuple(keys[0] for keys in parts)


def _resolved(keys: Key, path: Key) -> Key:
    """Return the path of a setting that is named from `keys`; `..` leads to the section around."""
    up = sum(part == ".." for part in path)
    return keys[: len(keys) - up] + path[up:]


def _listed(texts: Sequence[str]) -> str:
    """Name overrides, of many the first ones."""
    named = list(dict.fromkeys(texts))
    more = len(named) - MOST_NAMED
    return " and ".join(named[:MOST_NAMED] + ([f"{more} more"] if more > 0 else []))


def line_of(node: yaml.Node, keys: Key) -> int:
    """Return the line, from 1, of the deepest of `keys` that stands in the file."""
    line = node.start_mark.line
    for key in keys:
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            if key >= len(node.value):
                break
            node = node.value[key]
            line = node.start_mark.line
        elif isinstance(node, yaml.MappingNode):
            children = {name.value: (name, child) for name, child in node.value}
            if key not in children:
                break
            name, node = children[key]
            line = name.start_mark.line
    return int(line) + 1


def _reword(error: "ErrorDetails", value: JsonValue, kinds: Kinds, parents: Kinds) -> str:
    """Describe the mistake, the allowed values and the nearest of them."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown key{_nearest(str(error['loc'][-1]), names(parents))}"
    if kind in {"union_tag_invalid", "literal_error"}:
        expected = str(context.get("expected_tags") or context.get("expected", ""))
        options = re.findall(r"'([^']*)'", expected) or [expected]
        if kind == "union_tag_invalid":
            options = [one for one in options if not is_branch_name(one)]
            options[-1:] = [options[-1] + _without_type(kinds)]
        found = context.get("tag", value)
        if not isinstance(found, str):
            return f"expected one of {', '.join(options)}; found {brief(found)}"
        return f"{shown(found)} is not one of the allowed values{_nearest(found, options)}"
    if kind == "union_tag_not_found":
        chosen = sorted(t for k in kinds for t in tags(k))
        if not isinstance(value, dict):
            return f"expected a section of keys and values, found {brief(value)}"
        return f"type is missing; set one of {', '.join(chosen)}" if chosen else "type is missing"
    return described(kind, context, value)


def _without_type(kinds: Kinds) -> str:
    """Return what a section without `type` is, where one of its kinds has none."""
    models = [one for kind in kinds for one in members(kind) if not tags(one)]
    first = next((names([one])[0] for one in models if names([one])), None)
    return "" if first is None else f"; without type, a section with {first}"


def _nearest(found: str, options: list[str]) -> str:
    near = [] if len(found) > MOST_SUGGESTED else options
    close = difflib.get_close_matches(found, near, n=3, cutoff=0.6)
    meant = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return f"{meant} (allowed: {', '.join(dict.fromkeys(options))})"
