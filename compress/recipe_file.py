"""Read recipes from YAML or plain data, apply overrides, and write the result as YAML."""

import copy
import io
import json
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, JsonValue, ValidationError

from compress.reading.python_values import plain_copy
from compress.reading.setting_types import fields, fitted
from compress.recipe_source import Source, Tree
from export.errors import RecipeError, counted, shown
from export.optional import require
from export.reading.encodings import encoding_of
from export.reading.mistakes import brief
from export.reading.plain_yaml import MOST_CHARACTERS, MOST_DEPTH, Key, Plain, YamlError, read_yaml

Model = TypeVar("Model", bound=BaseModel)
Container = dict[str, JsonValue] | list[JsonValue]
Setting = tuple[Key, JsonValue]  # of the command line

# A setting of the first name and one of the second exclude each other: an override of one on the
# command line takes the other out of the file's section.
EXCLUSIVE = {"epochs": "steps", "steps": "epochs"}

Complete = Callable[[Source], None]

MOST_BYTES = 4 * MOST_CHARACTERS  # of a recipe's file
MOST_SHOWN = 120  # characters of an override in a message
_ENTRY = re.compile(r"\[(\d{1,6})\]")  # of a list, in a key of an override


def _as_it_is(source: Source) -> None:
    """Add nothing to a recipe's settings."""


def load_model(
    kind: type[Model], path: Path, overrides: Sequence[str] = (), complete: Complete = _as_it_is
) -> tuple[Model, Source]:
    """Read the file `path` as a `kind`, with `key=value` overrides.

    `complete` adds to the settings what they leave to other files, before they are validated.

    Raises:
        RecipeError: all mistakes at once, each as `file:line: key: what is wrong`.
    """
    return _validated(kind, read_source(kind, path, _text(path), overrides), complete)


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
    source = read_source(kind, None, _dump(dict(plain_copy(settings))), overrides)
    return _validated(kind, source, complete)


def check_form(path: Path) -> None:
    """Read a recipe's file without knowing any setting, which needs nothing heavy.

    Raises:
        RecipeError: it cannot be read, or is no plain YAML.
    """
    _parse(BaseModel, path, _text(path))


def read_source(
    kind: type[BaseModel], path: Path | None, text: str, overrides: Sequence[str] = ()
) -> Source:
    """Parse a recipe's text and apply the overrides.

    Raises:
        RecipeError: the text is no plain YAML mapping, or an override does not fit it.
    """
    node, tree = _parse(kind, path, text)
    given = tuple(overrides)
    changed = _override(tree, [_setting(kind, one) for one in given], given)
    return Source(path, text, given, kind, node, tree, changed)


def _text(path: Path) -> str:
    """Read a recipe's file.

    Raises:
        RecipeError: there is no such file, or it is no text.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise RecipeError(f"{path}: is a folder; name the recipe's YAML file")
        if not stat.S_ISREG(found.st_mode):
            raise RecipeError(f"{path}: is no regular file; save the recipe and name that file")
        if found.st_size > MOST_BYTES:
            raise RecipeError(
                f"{path}: holds {found.st_size} bytes; a recipe has at most {MOST_BYTES}"
            )
        content = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(f"{path}: there is no such recipe file") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the name is not valid"
        raise RecipeError(f"{path}: cannot be read ({reason})") from None
    encoding = encoding_of(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: holds the byte 0x{content[error.start]:02x}, which is not "
            f"{encoding.upper()} text; save the recipe as UTF-8"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _validated(kind: type[Model], source: Source, complete: Complete) -> tuple[Model, Source]:
    filled = replace(source, tree=copy.deepcopy(source.tree))
    complete(filled)
    try:
        return kind.model_validate_json(json.dumps(filled.tree)), source
    except ValidationError as error:
        raise filled.explain(error) from None


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
        same = edited is not None and _parse(source.kind, None, edited)[1] == source.tree
    except RecipeError:
        same = False
    return header + (edited if edited is not None and same else _dump(source.tree))


def _edited(source: Source) -> str | None:
    """Apply the overrides to the text with ruamel.yaml, which keeps comments; None if it fails."""
    ruamel = require("ruamel.yaml", extra="train", purpose="Keeping a recipe with overrides")
    editor = ruamel.YAML()
    editor.preserve_quotes, editor.width = True, 4096
    editor.indent(mapping=2, sequence=4, offset=2)
    settings = [_setting(source.kind, text) for text in source.overrides]
    written = io.StringIO()
    try:
        document = editor.load(source.text)
        for keys, _ in settings:
            _copy_path(document, keys)
        _override(document, [(keys, _quoted(value)) for keys, value in settings], source.overrides)
        editor.dump(document, written)
    except (ruamel.YAMLError, ValueError, TypeError, LookupError, AttributeError):
        return None  # some forms that our reader takes are none to this one
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
    """Quote strings that a reader could take for something else without quotes, such as `off`."""
    if isinstance(value, dict):
        return {key: _quoted(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_quoted(one) for one in value]
    if not isinstance(value, str) or _dump(value).startswith(value):
        return value
    strings = require("ruamel.yaml.scalarstring", extra="train", purpose="Keeping a recipe")
    quoted: str = strings.DoubleQuotedScalarString(value)
    return quoted


class _Dumper(yaml.SafeDumper):
    """SafeDumper that also quotes 1e-3: text to YAML 1.1, a number to 1.2."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$|^0o[0-7]+$"),
    list("-+.0123456789"),
)


def _dump(value: JsonValue) -> str:
    return str(yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def _parse(kind: type[BaseModel], path: Path | None, text: str) -> tuple[yaml.Node, Tree]:
    """Parse a recipe; scalars are read as the types of their settings in `kind`."""
    try:
        # what was given in Python has been measured before it was written as YAML
        found = read_yaml(text, most=MOST_CHARACTERS if path else MOST_BYTES)
    except YamlError as error:
        where = f"{path}:{error.line}: " if path else ""
        key = f"{error.key}: " if error.key else "" if path else "recipe: "
        raise RecipeError(f"{where}{key}{error.problem}") from None
    if found.node is None or found.value is None:
        raise RecipeError(
            f"{path or 'recipe'}: is empty; a recipe needs at least schema, name, data, student, "
            "train"
        )
    if not isinstance(found.value, dict):
        line = f"{path}:{found.node.start_mark.line + 1}" if path else "recipe"
        raise RecipeError(f"{line}: a recipe is a mapping of sections, found {brief(found.value)}")
    tree = _fitted(found, kind, ())
    assert isinstance(tree, dict)
    return found.node, tree


def _fitted(found: Plain, kind: type[BaseModel], keys: Key) -> JsonValue:
    """Return a value as the setting at `keys` takes it."""
    kinds: list[object] = [kind]
    for key in keys:
        kinds = fields(kinds, key)
    return fitted(found.value, kinds, found.texts, ())


def _setting(kind: type[BaseModel], text: str) -> Setting:
    """Read `a.b=value`; an entry of a list is `a.0.b` or, as messages write it, `a[0].b`.

    Raises:
        RecipeError: it is no key=value, or the value is no YAML.
    """
    name, equals, value = text.partition("=")
    parts = _ENTRY.sub(r".\1", name).split(".")
    well_formed = all(part and part == part.strip() for part in parts)
    if not equals or not well_formed or len(parts) > MOST_DEPTH:
        raise RecipeError(
            f"command line: {shown(text, MOST_SHOWN)} is no override; write key=value, as in "
            "train.epochs=1"
        )
    # an entry of a list; no list has a million of them
    keys = tuple(int(p) if p.isascii() and p.isdigit() and len(p) < 7 else p for p in parts)
    try:
        return keys, _fitted(read_yaml(value), kind, keys)
    except YamlError as error:
        place = f" {error.key}:" if error.key else ""
        raise RecipeError(f"command line: {_cut(text)}:{place} {error.problem}") from None


def _cut(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…"


def _override(tree: Tree, settings: Sequence[Setting], texts: Sequence[str]) -> dict[Key, str]:
    """Apply `settings` to `tree`; return key path -> the one of `texts` that set it."""
    changed: dict[Key, str] = {}
    for (keys, value), text in zip(settings, texts, strict=True):
        parent: Container = tree
        path: list[str | int] = []
        for position, key in enumerate(keys):
            path.append(key if isinstance(parent, list) else str(key))
            if isinstance(parent, list) and not (isinstance(key, int) and key < len(parent)):
                missing = _cut(".".join(map(str, keys[: position + 1])))
                raise RecipeError(
                    f"command line: {_cut(text)}: the recipe's list has "
                    f"{counted(len(parent), 'entry', 'entries')}, "
                    f"numbered from 0; there is no {missing}"
                )
            if position == len(keys) - 1:
                earlier = changed.get(tuple(path))
                if earlier is not None and _child(parent, key) is not None:  # null takes it out
                    raise RecipeError(
                        f"command line: {_cut(text)}: replaces {earlier}, which is given too; give "
                        "one of them"
                    )
                _put(parent, key, value)
                if isinstance(parent, dict) and value is not None:
                    parent.pop(EXCLUSIVE.get(str(key), ""), None)
                break
            child = _child(parent, key)
            if not isinstance(child, dict | list):
                child = {}
                _put(parent, key, child)
            parent = child
        changed[tuple(path)] = _cut(text)
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
