"""Write a section of settings as YAML, with the comments that stand beside its fields."""

import inspect
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, JsonValue

from compress.reading.setting_types import members

_FIELD = re.compile(r" {4}(?P<name>\w+): (?P<rest>.*)")
_COMMENT = re.compile(r"  # (?P<text>.*)")


def commented(section: BaseModel, *, width: int, indent: int = 0) -> list[str]:
    """Return the settings of `section` as lines of YAML, its own before those of its bases.

    Args:
        section: with the values to write.
        width: characters of a line.
        indent: spaces before each line.
    """
    texts = comments(type(section))
    values = section.model_dump(mode="json", by_alias=True)
    lines = []
    for name in _own_first(type(section)):
        field, value = type(section).model_fields[name], getattr(section, name)
        text = "; ".join(filter(None, [_choices(field.annotation), texts.get(name)]))
        key = field.alias or name
        if isinstance(value, BaseModel):
            lines += _with_comment(f"{key}:", text, width, indent)
            lines += commented(value, width=width, indent=indent + 2)
        else:
            lines += _with_comment(f"{key}: {_flow(values[key])}", text, width, indent)
    return lines


def _choices(annotation: object) -> str:
    """Return the words that a setting may be; "" where it is no word, or one alone."""
    kinds = members(annotation)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    others = any(kind in {int, float, str, Path} for kind in kinds)
    if len(words) + others < 2:
        return ""
    return f"{'or ' if others else ''}{' | '.join(map(str, words))}"


def comments(kind: type[BaseModel]) -> dict[str, str]:
    """Return field -> comment of a settings class and its bases, as they stand in the source."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            with suppress(OSError):  # a class that was made without a file
                found.update(_of_source(inspect.getsource(base)))
    return found


def _of_source(source: str) -> Iterator[tuple[str, str]]:
    above: list[str] = []
    for line in source.splitlines():
        field = _FIELD.fullmatch(line)
        if line.startswith("    # "):
            above.append(line.strip(" #"))
            continue
        if field is not None:
            beside = _COMMENT.search(line)
            text = " ".join([*above, beside["text"] if beside else ""]).strip()
            yield field["name"], re.sub(r"\bNone\b", "null", text)
        above = []


def _own_first(kind: type[BaseModel]) -> list[str]:
    """Return the fields of a class, then those of its bases; `type` is the first."""
    own = [name for base in kind.__mro__ for name in inspect.get_annotations(base)]
    return sorted(
        dict.fromkeys(name for name in own if name in kind.model_fields),
        key=lambda name: name != "type",
    )


def _flow(value: JsonValue) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("...\n").strip()


def _with_comment(setting: str, text: str, width: int, indent: int) -> list[str]:
    """Return a line with its comment beside it, or wrapped above it where it is too long."""
    margin = " " * indent
    beside = f"{margin}{setting}  # {text}" if text else f"{margin}{setting}"
    if len(beside) <= width:
        return [beside]
    head = f"{margin}# "
    return [
        *textwrap.wrap(text, width, initial_indent=head, subsequent_indent=head),
        f"{margin}{setting}",
    ]
