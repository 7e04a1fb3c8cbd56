"""Origin of each setting of a recipe, and validation errors described by file, line and key."""

import difflib
import json
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from export.errors import RecipeError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Key = tuple[str | int, ...]  # path of a setting: ("distill", 0, "weight")
Tree = dict[str, JsonValue]  # a recipe as plain data
Kinds = list[object]  # type annotations


@dataclass(frozen=True)
class Source:
    """The origin of a recipe's settings.

    Attributes:
        path: file of the recipe; None for one that was given in Python.
        text: content of the file, YAML.
        overrides: `key=value` settings of the command line.
        node: the YAML, with line numbers.
        tree: all settings, overrides included.
        changed: path of a setting -> override that set it.
    """

    path: Path | None
    text: str
    overrides: tuple[str, ...]
    node: yaml.Node
    tree: Tree
    changed: Mapping[Key, str]

    def at(self, *keys: str | int) -> str:
        """Return `file:line: key`, the key alone without a file, or the override that set it."""
        for depth in range(len(keys), 0, -1):
            if keys[:depth] in self.changed:
                return f"command line: {self.changed[keys[:depth]]}: {dotted(keys)}"
        if self.path is None:
            return dotted(keys) or "recipe"
        return f"{self.path}:{line_of(self.node, keys)}: {dotted(keys)}".removesuffix(": ")

    def explain(self, error: ValidationError, kind: type[BaseModel]) -> RecipeError:
        """Describe all mistakes that `kind` found in the settings, a line each."""
        details, described = error.errors(), _Describer(self, kind)
        lines = [line for one in details for line in described.lines(one)]
        if not lines:  # every branch of a union left the mistake to another one
            lines = [line for one in details for line in described.lines(one, every=True)]
        return RecipeError("\n".join(dict.fromkeys(lines)))


@dataclass(frozen=True)
class _Describer:
    """Describes validation errors of `kind` by the keys of the recipe."""

    source: Source
    kind: type[BaseModel]

    def lines(self, error: "ErrorDetails", *, every: bool = False) -> Iterator[str]:
        """Yield the line of a mistake; none when another branch of a union explains it better.

        With `every` there is one in any case.
        """
        keys, value, types_here, parent = self._walk(error["loc"])
        if self._is_other_branch(error, value) and not every:
            return
        message = _reword(error, value, types_here, parent)
        in_file = _stands(self.source.node, keys)
        for path, text in self.source.changed.items():
            if path[: len(keys)] == keys and len(path) > len(keys) and not in_file:
                yield f"command line: {text}: {dotted(keys)}: {message}"
                return
        yield f"{self.source.at(*keys)}: {message}"

    def _walk(self, loc: Key) -> tuple[Key, JsonValue, Kinds, Kinds]:
        """Follow `loc` through file and types; drop the union tags that only pydantic sees."""
        keys: list[str | int] = []
        value: JsonValue = self.source.tree
        kinds: Kinds = [self.kind]
        parents: Kinds = []
        for part in loc:
            is_tag = isinstance(part, str) and not (
                isinstance(value, dict) and part in value and _fields(kinds, part)
            )
            if is_tag and value is not None and not isinstance(value, dict | list):
                continue  # a tag that tells alternatives for one scalar apart
            if is_tag:
                chosen = [k for k in kinds if _tagged(k, str(part))]
                if chosen and not _fields(kinds, str(part)):
                    kinds = chosen
                    continue
                if not _fields(kinds, str(part)) and _is_branch_name(str(part)):
                    continue
            keys.append(part)
            parents = kinds
            kinds = _fields(kinds, part) or kinds[:0]
            if isinstance(value, dict):
                value = value.get(str(part))
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                value = None
        return tuple(keys), value, kinds, parents or kinds

    def _is_other_branch(self, error: "ErrorDetails", value: JsonValue) -> bool:
        """Whether another branch of a union explains the mistake.

        Where text or a mapping may stand and a mapping is given, the mapping's errors count alone.
        """
        names = [str(part) for part in error["loc"]]
        scalar = bool(names) and names[-1] in {"str", "int", "float", "bool", "constrained-int"}
        scalar = scalar or (bool(names) and names[-1].startswith(("function-", "constrained-")))
        if isinstance(value, dict | list):
            return scalar
        return (
            error["type"] in {"model_type", "model_attributes_type"}
            and not isinstance(value, dict)
            and any(_is_branch_name(n) for n in names)
            and value is not None
        )


def _stands(node: yaml.Node, keys: Key) -> bool:
    """Whether the file holds `keys`."""
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            children = {name.value: child for name, child in node.value}
            if key not in children:
                return False
            node = children[key]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
        else:
            return False
    return True


def dotted(keys: Sequence[str | int]) -> str:
    """Write a key path as messages do: `teacher[1].train` of ("teacher", 1, "train")."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


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


def _members(kind: object) -> Kinds:
    """Return the alternatives of an annotation, stripped of Annotated, Optional and unions."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in {Union, types.UnionType}:
        return [m for arg in get_args(kind) for m in _members(arg)]
    return [kind]


def _fields(kinds: Kinds, key: str | int) -> Kinds:
    """Return the annotations that `key` may have in any of `kinds`."""
    found: Kinds = []
    for kind in kinds:
        for member in _members(kind):
            if isinstance(member, type) and issubclass(member, BaseModel):
                for name, field in member.model_fields.items():
                    if key in {name, field.alias}:
                        found += _members(field.annotation)
            elif isinstance(key, int) and get_origin(member) in {tuple, list}:
                found += [m for arg in get_args(member) if arg is not ... for m in _members(arg)]
    return found


def _names(kinds: Kinds) -> list[str]:
    """Return the keys that a section may hold."""
    models = [
        m for k in kinds for m in _members(k) if isinstance(m, type) and issubclass(m, BaseModel)
    ]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _tagged(kind: object, tag: str) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return False
    field = kind.model_fields.get("type")
    return kind.__name__ == tag or (field is not None and tag in get_args(field.annotation))


def _is_branch_name(part: str) -> bool:
    return part[:1].isupper() or "[" in part or part in {"str", "int", "float", "bool"}


def _reword(error: "ErrorDetails", value: JsonValue, kinds: Kinds, parents: Kinds) -> str:
    """Describe the mistake, the allowed values and the nearest of them."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        allowed = _names(parents)
        return f"unknown key{_nearest(str(error['loc'][-1]), allowed)}"
    if kind == "missing":
        return "is missing, and has no default"
    if kind in {"union_tag_invalid", "literal_error"}:
        expected = str(context.get("expected_tags") or context.get("expected", ""))
        options = re.findall(r"'([^']*)'", expected) or [expected]
        found = str(context.get("tag", value))
        return f"{found!r} is not one of the allowed values{_nearest(found, options)}"
    if kind == "union_tag_not_found":
        tags = sorted(t for k in kinds for t in _tags(k))
        return f"type is missing; say one of {', '.join(tags)}" if tags else "type is missing"
    if kind == "string_pattern_mismatch":
        return f"{value!r} does not fit: it must match {context.get('pattern')}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = message.removeprefix("Assertion failed, ")
    if value is None or isinstance(value, dict | list) or kind == "value_error":
        return message
    return f"{message} (found {json.dumps(value)})"


def _tags(kind: object) -> list[str]:
    field = getattr(kind, "model_fields", {}).get("type")
    return [str(a) for a in get_args(field.annotation)] if field is not None else []


def _nearest(found: str, options: list[str]) -> str:
    close = difflib.get_close_matches(found, options, n=3, cutoff=0.6)
    meant = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return f"{meant} (allowed: {', '.join(dict.fromkeys(options))})"
