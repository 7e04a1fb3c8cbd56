"""Type annotations of a recipe's settings, and reading plain scalars as the types that they fit."""

import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, JsonValue
from pydantic.fields import FieldInfo

from export.reading.plain_yaml import Key

Kinds = list[object]  # type annotations

_WORDS: dict[object, str] = {
    **{int: "a whole number", float: "a number", bool: "true or false"},
    **{str: "text", Path: "a path"},
}

# The truth values of YAML 1.1, which the recipes of earlier versions may hold; 1.2 reads text.
TRUTH = {**dict.fromkeys(("yes", "on", "y"), True), **dict.fromkeys(("no", "off", "n"), False)}


def fitted(value: JsonValue, kinds: Kinds, texts: Mapping[Key, str], keys: Key) -> JsonValue:
    """Return `value` with every scalar that was written without quotes as its setting takes it.

    Where text is expected, a number or truth value is the text as written (`name: 2024`,
    `classes: [on, 1]`); where a truth value is expected, so are `yes`, `no`, `on` and `off`.

    Args:
        value: plain data.
        kinds: annotations that `value` may have; none for an unknown key.
        texts: scalars without quotes as they are written, by path.
        keys: path of `value` in `texts`.
    """
    if isinstance(value, dict):
        return {k: fitted(v, fields(kinds, k), texts, (*keys, k)) for k, v in value.items()}
    if isinstance(value, list):
        return [
            fitted(v, fields(kinds, place), texts, (*keys, place)) for place, v in enumerate(value)
        ]
    text = texts.get(keys)
    if text is None or value is None or not kinds:
        return value
    options = [option for kind in kinds if get_origin(kind) is Literal for option in get_args(kind)]
    takes_text = str in kinds or Path in kinds or any(isinstance(one, str) for one in options)
    if isinstance(value, str):
        as_text = str in kinds or Path in kinds or value in options
        return TRUTH.get(value.lower(), value) if bool in kinds and not as_text else value
    accepted: set[object] = {type(value), float if type(value) is int else type(value)}
    if not takes_text or accepted & set(map(_hashable, kinds)) or value in options:
        return value
    return text


def _hashable(kind: object) -> object:
    return kind if isinstance(kind, type) else None


def members(kind: object) -> Kinds:
    """Return the alternatives of an annotation, stripped of Annotated, Optional and unions."""
    origin = get_origin(kind)
    if origin is Annotated:
        return members(get_args(kind)[0])
    if origin in {Union, types.UnionType}:
        return [m for arg in get_args(kind) for m in members(arg)]
    return [kind]


def fields(kinds: Kinds, key: str | int) -> Kinds:
    """Return the annotations that `key` may have in any of `kinds`."""
    found: Kinds = []
    for kind in kinds:
        for member in members(kind):
            if isinstance(member, type) and issubclass(member, BaseModel):
                for name, field in member.model_fields.items():
                    if key in {name, field.alias, *_choices(field)}:
                        found += members(field.annotation)
            elif isinstance(key, int) and get_origin(member) in {tuple, list}:
                found += [m for arg in get_args(member) if arg is not ... for m in members(arg)]
    return found


def _choices(field: FieldInfo) -> Sequence[object]:
    """Return the keys under which a field may be given, its older names among them."""
    alias = field.validation_alias
    return alias.choices if isinstance(alias, AliasChoices) else ()


def names(kinds: Kinds) -> list[str]:
    """Return the keys that a section may hold."""
    models = [
        m for k in kinds for m in members(k) if isinstance(m, type) and issubclass(m, BaseModel)
    ]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def tagged(kind: object, tag: str) -> bool:
    """Whether a section is the one that `tag` chooses from a union."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return False
    field = kind.model_fields.get("type")
    return kind.__name__ == tag or (field is not None and tag in get_args(field.annotation))


def tags(kind: object) -> list[str]:
    """Return the values of `type` that choose a section from a union."""
    field = getattr(kind, "model_fields", {}).get("type")
    return [str(a) for a in get_args(field.annotation)] if field is not None else []


def is_branch_name(part: str) -> bool:
    """Whether a part of an error's path is pydantic's name of a union's branch."""
    return (
        part[:1].isupper()
        or "[" in part
        or part in {"str", "int", "float", "bool"}
        or part.startswith(("constrained-", "function-"))
    )


def alternatives(kinds: Kinds, key: str | int) -> str:
    """Return in words what a setting takes whose values are of unlike kinds; else no text.

    Args:
        kinds: sections or lists that may hold the setting.
        key: its key.
    """
    found = [kind for kind in fields(kinds, key) if kind is not type(None)]
    if any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in found):
        return ""  # of sections, the one that was meant is described
    words: list[str] = []
    for kind in found:
        if get_origin(kind) is Literal:
            words += [str(option) for option in get_args(kind)]
        elif get_origin(kind) in {tuple, list}:
            words.append("a list")
        else:
            words.append(_WORDS.get(kind, "another value"))
    words = list(dict.fromkeys(words))
    if len(words) < 2 or all(get_origin(kind) is Literal for kind in found):
        return ""
    models = [m for kind in kinds for m in members(kind)]
    for model in models:
        field = getattr(model, "model_fields", {}).get(key)
        if field is not None and field.description:
            return str(field.description)
    return f"{', '.join(words[:-1])} or {words[-1]}"
