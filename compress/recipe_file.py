"""Read recipes from YAML or plain data, apply overrides, and write the result as YAML."""

import copy
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from compress.recipe_source import Key, Source, Tree
from export.errors import RecipeError
from export.optional import require

Model = TypeVar("Model", bound=BaseModel)
Container = dict[str, JsonValue] | list[JsonValue]

# A setting of the first name and one of the second exclude each other: an override of one on the
# command line takes the other out of the file's section.
EXCLUSIVE = {"epochs": "steps", "steps": "epochs"}


Complete = Callable[[Source], None]


def _as_it_is(source: Source) -> None:
    """Add nothing to a recipe's settings."""


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


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what `_Loader` would read as something else."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def load_model(
    kind: type[Model], path: Path, overrides: Sequence[str] = (), complete: Complete = _as_it_is
) -> tuple[Model, Source]:
    """Read the file `path` as a `kind`, with `key=value` overrides.

    `complete` adds to the settings what they leave to other files, before they are validated.

    Raises:
        RecipeError: all mistakes at once, each as `file:line: key: what is wrong`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: cannot be read as a text file ({error})") from None
    return _validated(kind, read_source(path, text, overrides), complete)


def read_model(
    kind: type[Model],
    settings: Mapping[str, object],
    overrides: Sequence[str] = (),
    complete: Complete = _as_it_is,
) -> tuple[Model, Source]:
    """Read nested dicts and lists as a `kind`, with `key=value` overrides; paths become text.

    `complete` adds to the settings what they leave to other files, before they are validated.

    Raises:
        RecipeError: all mistakes at once, each as `key: what is wrong`.
    """
    try:
        plain = json.loads(json.dumps(dict(settings), allow_nan=False, default=_plain))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"recipe: holds a value that is no text, number or list ({error})") from (
            None
        )
    return _validated(kind, read_source(None, _dump(plain), overrides), complete)


def _plain(value: object) -> object:
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{value!r} is of type {type(value).__name__}")


def read_source(path: Path | None, text: str, overrides: Sequence[str] = ()) -> Source:
    """Parse a recipe's text and apply the overrides.

    Raises:
        RecipeError: the text is no plain YAML mapping, or an override does not fit it.
    """
    node, tree = _parse(path or "recipe", text)
    changed = _override(tree, [_setting(text) for text in overrides], overrides)
    return Source(path, text, tuple(overrides), node, tree, changed)


def _validated(kind: type[Model], source: Source, complete: Complete) -> tuple[Model, Source]:
    filled = replace(source, tree=copy.deepcopy(source.tree))
    complete(filled)
    try:
        return kind.model_validate_json(json.dumps(filled.tree)), source
    except ValidationError as error:
        raise filled.explain(error, kind) from None


def complete_text(source: Source) -> str:
    """Return the text of the recipe with its overrides applied.

    Comments and key order are kept. Where the edited text would not read as the same settings, the
    settings are written without comments.
    """
    if not source.overrides:
        return source.text
    given = "".join(f"#   {' '.join(text.split())}\n" for text in source.overrides)
    name = source.path or "a recipe given in Python"
    header = f"# {name}, with these settings of the command line in place:\n{given}"
    header += "# Relative paths start from the folder in which the run was started.\n"
    edited = _edited(source)
    try:
        same = edited is not None and _parse("recipe", edited)[1] == source.tree
    except RecipeError:
        same = False
    return header + (edited if edited is not None and same else _dump(source.tree))


def _edited(source: Source) -> str | None:
    """Apply the overrides to the text with ruamel.yaml, which keeps comments; None if it fails."""
    ruamel = require("ruamel.yaml", extra="train", purpose="Keeping a recipe with overrides")
    editor = ruamel.YAML()
    editor.preserve_quotes, editor.width = True, 4096
    editor.indent(mapping=2, sequence=4, offset=2)
    try:
        document = editor.load(source.text)
    except ruamel.YAMLError:
        return None
    settings = [_setting(text) for text in source.overrides]
    for keys, _ in settings:
        _copy_path(document, keys)
    _override(document, [(keys, _quoted(value)) for keys, value in settings], source.overrides)
    written = io.StringIO()
    editor.dump(document, written)
    return written.getvalue()


def _copy_path(document: Container, keys: Key) -> None:
    """Copy every container on the path `keys` that an alias may share with another place."""
    parent = document
    for key in keys:
        child = copy.deepcopy(_child(parent, key))
        if not isinstance(child, dict | list):
            return
        anchor = getattr(child, "anchor", None)  # of ruamel.yaml's dicts and lists
        if anchor is not None:
            anchor.value = None
        _put(parent, key, child)
        parent = child


def _quoted(value: JsonValue) -> JsonValue:
    """Quote strings that `_Loader` would read as something else without quotes, such as `off`."""
    if isinstance(value, dict):
        return {key: _quoted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_quoted(one) for one in value]
    if not isinstance(value, str) or _dump(value).startswith(value):
        return value
    strings = require("ruamel.yaml.scalarstring", extra="train", purpose="Keeping a recipe")
    quoted: str = strings.DoubleQuotedScalarString(value)
    return quoted


def _dump(value: JsonValue) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _parse(path: Path | str, text: str) -> tuple[yaml.Node, Tree]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise RecipeError(
                f"{path}: is empty; a recipe needs at least schema, name, data, student, train"
            )
        _refuse_repeats(path, node)
        tree = loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise RecipeError(f"{path}:{line}: is not plain YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path}: is not plain YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(tree, dict):
        raise RecipeError(
            f"{path}:1: a recipe is a mapping of sections, found {type(tree).__name__}"
        )
    try:
        tree = json.loads(json.dumps(tree, allow_nan=False))  # also copies what YAML aliases share
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{path}: holds a value that is no text, number or list ({error})"
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


def _setting(text: str) -> tuple[Key, JsonValue]:
    """Read `a.b=value`.

    Raises:
        RecipeError: it is no key=value, or the value is no YAML.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise RecipeError(
            f"command line: {text!r} is no override; write key=value, as in train.epochs=1"
        )
    keys = tuple(int(part) if part.isdigit() else part for part in name.split("."))
    try:
        # through JSON, which copies what YAML aliases share
        return keys, json.loads(json.dumps(yaml.load(value, Loader=_Loader), allow_nan=False))
    except (yaml.YAMLError, TypeError, ValueError):
        raise RecipeError(f"command line: {text}: the value is not plain YAML") from None


def _override(
    tree: Tree, settings: Sequence[tuple[Key, JsonValue]], texts: Sequence[str]
) -> dict[Key, str]:
    """Apply `settings` to `tree`; return key path -> the one of `texts` that set it."""
    changed: dict[Key, str] = {}
    for (keys, value), text in zip(settings, texts, strict=True):
        parent: Container = tree
        for position, key in enumerate(keys):
            if isinstance(parent, list) and not (isinstance(key, int) and key < len(parent)):
                raise RecipeError(
                    f"command line: {text}: the recipe's list has {len(parent)} entries, numbered "
                    f"from 0; there is no {'.'.join(map(str, keys[: position + 1]))}"
                )
            if position == len(keys) - 1:
                _put(parent, key, value)
                if isinstance(parent, dict) and value is not None:
                    parent.pop(EXCLUSIVE.get(str(key), ""), None)
                break
            child = _child(parent, key)
            if not isinstance(child, dict | list):
                child = {}
                _put(parent, key, child)
            parent = child
        changed[keys] = text
    return changed


def _child(parent: Container, key: str | int) -> JsonValue:
    if isinstance(parent, list):
        return parent[key] if isinstance(key, int) and key < len(parent) else None
    return parent.get(str(key))


def _put(parent: Container, key: str | int, value: JsonValue) -> None:
    if isinstance(parent, dict):
        parent[str(key)] = value
    elif isinstance(key, int):
        parent[key] = value
