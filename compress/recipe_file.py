"""Read a recipe file: safe YAML, overrides, and every mistake with its line."""

import difflib
import json
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from export.errors import RecipeError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
Key = tuple[str | int, ...]

# A setting of the first name and one of the second exclude each other: an override of one on the
# command line takes the other out of the file's section.
EXCLUSIVE = {"epochs": "steps", "steps": "epochs"}


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number (YAML 1.1 wants 1.0e-3) and dates as text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def load_model(kind: type[Model], path: Path, overrides: Sequence[str] = ()) -> tuple[Model, str]:
    """Read `path` as a `kind`, with `key=value` overrides; return it and the file's text.

    Raises:
        RecipeError: all mistakes at once, each as `file:line: key: what is wrong`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a text file ({error})") from None
    return read_model(kind, path, text, overrides), text


def read_model(kind: type[Model], path: Path | None, text: str, overrides: Sequence[str]) -> Model:
    """Read YAML text as a `kind`; without a `path`, mistakes are told by key alone.

    Raises:
        RecipeError: all mistakes at once, each as `file:line: key: what is wrong`.
    """
    node, tree = _parse(path, text)
    changed = _override(tree, overrides)
    try:
        return kind.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        where = _Where(path, node, tree, changed, kind)
        found = error.errors()
        lines = [line for details in found for line in where.describe(details)]
        if not lines:  # each branch left it to another one
            lines = [line for details in found for line in where.describe(details, every=True)]
        raise RecipeError("\n".join(dict.fromkeys(lines))) from None


def _parse(path: Path | None, text: str) -> tuple[yaml.Node, dict[str, Any]]:
    name = path or "recipe"
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise RecipeError(
                f"{name}: is empty; a recipe needs at least schema, name, data, student, train"
            )
        _refuse_repeats(name, node)
        tree = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{name}:{line}: is not plain YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: is not plain YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{name}:1: a recipe is a mapping of sections, found {type(tree).__name__}"
        )
    try:
        tree = json.loads(json.dumps(tree, allow_nan=False))  # also parts what YAML aliases share
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{name}: holds a value that is no text, number or list ({error})"
        ) from None
    return node, tree


def _refuse_repeats(path: Path | str, node: yaml.Node) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, int] = {}
        for name, value in node.value:
            line = name.start_mark.line + 1
            if name.value in seen:
                raise RecipeError(
                    f"{path}:{line}: {name.value}: stands twice in one section (first on line "
                    f"{seen[name.value]}); keep one"
                )
            seen[name.value] = line
            _refuse_repeats(path, value)
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            _refuse_repeats(path, child)


def _override(tree: dict[str, Any], overrides: Sequence[str]) -> dict[Key, str]:
    """Apply `a.b=value` to `tree`; return what was set, by key path."""
    changed: dict[Key, str] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise RecipeError(
                f"command line: {text!r} is no override; write key=value, as in train.epochs=1"
            )
        keys: Key = tuple(int(p) if p.isdigit() else p for p in name.split("."))
        try:
            # through JSON also parts what YAML aliases share
            parsed = json.loads(json.dumps(yaml.load(value, Loader=_Loader), allow_nan=False))
        except (yaml.YAMLError, TypeError, ValueError):
            raise RecipeError(f"command line: {text}: the value is not plain YAML") from None
        parent: Any = tree
        for position, key in enumerate(keys[:-1]):
            child = _child(parent, key)
            if not isinstance(child, dict | list):
                child = {}
                if isinstance(parent, list):
                    _no_entry(text, keys[: position + 1], parent)
                parent[key] = child
            parent = child
        last = keys[-1]
        if isinstance(parent, list) and not (isinstance(last, int) and last < len(parent)):
            _no_entry(text, keys, parent)
        parent[last] = parsed
        if isinstance(parent, dict) and parsed is not None:
            parent.pop(EXCLUSIVE.get(str(last), ""), None)
        changed[keys] = text
    return changed


def _child(parent: Any, key: str | int) -> Any:
    if isinstance(parent, list):
        return parent[key] if isinstance(key, int) and key < len(parent) else None
    return parent.get(key)


def _no_entry(text: str, keys: Key, parent: list[Any]) -> None:
    raise RecipeError(
        f"command line: {text}: the recipe's list has {len(parent)} entries, numbered from 0; "
        f"there is no {'.'.join(map(str, keys))}"
    )


class _Where:
    """Turns pydantic's error paths into lines of the file, in the user's words."""

    def __init__(
        self,
        path: Path | None,
        node: yaml.Node,
        tree: dict[str, Any],
        changed: dict[Key, str],
        kind: type[BaseModel],
    ) -> None:
        self.path, self.node, self.tree, self.changed, self.kind = path, node, tree, changed, kind

    def describe(self, error: "ErrorDetails", *, every: bool = False) -> Iterator[str]:
        """One line for a mistake; none when another branch of a union explains it better.

        With `every` there is one in any case.
        """
        keys, value, types_here, parent = self._walk(error["loc"])
        if self._is_other_branch(error, value) and not every:
            return
        message = _reword(error, value, types_here, parent)
        key = dotted(keys)
        for depth in range(len(keys), 0, -1):
            if keys[:depth] in self.changed:
                yield f"command line: {self.changed[keys[:depth]]}: {key}: {message}"
                return
        for path, text in self.changed.items():
            if path[: len(keys)] == keys and _at(self.node, keys) is None:
                yield f"command line: {text}: {key}: {message}"
                return
        yield _place(self.path, self.node, keys) + (f"{key}: {message}" if key else message)

    def _walk(self, loc: tuple[int | str, ...]) -> tuple[Key, Any, list[Any], list[Any]]:
        """Follow `loc` through file and types; drop the union tags that only pydantic sees."""
        keys: list[str | int] = []
        value: Any = self.tree
        kinds: list[Any] = [self.kind]
        parents: list[Any] = []
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
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                value = None
        return tuple(keys), value, kinds, parents or kinds

    def _is_other_branch(self, error: "ErrorDetails", value: Any) -> bool:
        """A mapping given where text or a mapping may stand: only the mapping's errors count."""
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


def _at(node: yaml.Node, keys: Key) -> yaml.Node | None:
    """The node that stands at `keys` in the file, if any."""
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


def dotted(keys: Sequence[str | int]) -> str:
    """Write a key path as messages do: `teacher[1].train` of ("teacher", 1, "train")."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def _place(path: Path | None, node: yaml.Node, keys: Key) -> str:
    return "" if path is None else f"{path}:{line_of(node, keys)}: "


def line_of(node: yaml.Node, keys: Key) -> int:
    """The 1-based line of the deepest of `keys` that stands in the file."""
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


def _members(kind: Any) -> list[Any]:
    """The alternatives of an annotation, without Annotated, Optional and unions around them."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in {Union, types.UnionType}:
        return [m for arg in get_args(kind) for m in _members(arg)]
    return [kind]


def _fields(kinds: list[Any], key: str | int) -> list[Any]:
    """The annotations that `key` may have in any of `kinds`."""
    found: list[Any] = []
    for kind in kinds:
        for member in _members(kind):
            if isinstance(member, type) and issubclass(member, BaseModel):
                for name, field in member.model_fields.items():
                    if key in {name, field.alias}:
                        found += _members(field.annotation)
            elif isinstance(key, int) and get_origin(member) in {tuple, list}:
                found += [m for arg in get_args(member) if arg is not ... for m in _members(arg)]
    return found


def _names(kinds: list[Any]) -> list[str]:
    """The keys that a section may hold."""
    models = [
        m for k in kinds for m in _members(k) if isinstance(m, type) and issubclass(m, BaseModel)
    ]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _tagged(kind: Any, tag: str) -> bool:
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return False
    field = kind.model_fields.get("type")
    return kind.__name__ == tag or (field is not None and tag in get_args(field.annotation))


def _is_branch_name(part: str) -> bool:
    return part[:1].isupper() or "[" in part or part in {"str", "int", "float", "bool"}


def _reword(error: "ErrorDetails", value: Any, kinds: list[Any], parents: list[Any]) -> str:
    """Say what is wrong, what is allowed and what was probably meant."""
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


def _tags(kind: Any) -> list[str]:
    field = getattr(kind, "model_fields", {}).get("type")
    return [str(a) for a in get_args(field.annotation)] if field is not None else []


def _nearest(found: str, options: list[str]) -> str:
    close = difflib.get_close_matches(found, options, n=3, cutoff=0.6)
    meant = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return f"{meant} (allowed: {', '.join(dict.fromkeys(options))})"


@dataclass(frozen=True)
class Source:
    """A recipe's file, for messages that come after it was read.

    Attributes:
        path: the file; None for a recipe that was given in Python.
        text: its content, YAML.
        overrides: `key=value` settings of the command line.
    """

    path: Path | None
    text: str
    overrides: Sequence[str] = ()

    @property
    def whole(self) -> str:
        """The text, with the overrides as a comment."""
        given = "".join(f"\n#   {override}" for override in self.overrides)
        return self.text + (f"\n# overrides on the command line:{given}\n" if given else "")

    def at(self, *keys: str | int) -> str:
        """Return `file:line: key`, the key alone without a file, or the override that set it."""
        node, tree = _parse(self.path, self.text)
        changed = _override(tree, self.overrides)
        for depth in range(len(keys), 0, -1):
            if keys[:depth] in changed:
                return f"command line: {changed[keys[:depth]]}: {dotted(keys)}"
        return f"{_place(self.path, node, keys)}{dotted(keys)}"
