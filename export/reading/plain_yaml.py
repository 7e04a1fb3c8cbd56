"""Read YAML written by anybody: plain data alone, and no more of it than the text holds.

Numbers, truth values and null are those of YAML 1.2, so `no`, `on`, `off`, `1:30`, `1_000`, `0b1`
and dates are text, which a setting that takes numbers refuses. Numbers with a leading 0 are text
too: 017 is 15 to some readers and 17 to others. Tags that build other objects, keys that are no
words, deep nesting and aliases that repeat themselves into more than the text are refused before
any value is built.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from export.errors import printable, shown, unsafe_character

if TYPE_CHECKING:
    from pydantic import JsonValue

Key = tuple[str | int, ...]  # path of a value: ("distill", 0, "weight")
MOST_DEPTH = 32  # sections inside sections
MOST_DIGITS = 40  # of a number
MOST_CHARACTERS = 100_000  # of a text
REPEATED = 20_000  # characters that aliases may add to a text

_STANDARD = "tag:yaml.org,2002:"
_PLAIN = "plain"  # our own tag of a scalar without quotes and tag
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_STAND_IN = 0xF0000  # private characters that stand for unreadable ones until their key is known
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_KINDS: dict[str, tuple[type, ...]] = {
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "null": (type(None),),
}


class YamlError(Exception):
    """A text is not the plain YAML that was expected.

    Attributes:
        line: where, from 1.
        key: dotted key of the value; empty where there is none.
        problem: what is wrong.
    """

    def __init__(self, line: int, key: str, problem: str) -> None:
        super().__init__(line, key, problem)
        self.line, self.key, self.problem = line, key, problem

    def __str__(self) -> str:
        """Return `line: key: problem`."""
        key = f"{self.key}: " if self.key else ""
        return f"{self.line}: {key}{self.problem}"


@dataclass(frozen=True)
class Plain:
    """What a text says.

    Attributes:
        node: the YAML with its lines; None for a text without content.
        value: plain data; None for a text without content.
        texts: scalars without quotes as they are written, by path.
    """

    node: yaml.Node | None
    value: "JsonValue"
    texts: Mapping[Key, str]


def read_yaml(text: str, *, number_keys: bool = False, most: int = MOST_CHARACTERS) -> Plain:
    """Read one YAML document as plain data.

    Args:
        text: the document.
        number_keys: whether whole numbers may be keys.
        most: characters that the text may have.

    Raises:
        YamlError: the text is not plain YAML, or would be more than it shows.
    """
    if len(text) > most:
        raise YamlError(1, "", f"holds {len(text)} characters; expected at most {most}")
    found = _UNREADABLE.search(text)
    readable = text
    if found is not None:
        readable = _UNREADABLE.sub(lambda one: chr(_STAND_IN + ord(one[0])), text)
    try:
        plain = _read(readable, number_keys)
    except YamlError as error:
        if found is None or error.key:
            raise
    else:
        if found is None:
            return plain
    # in a comment, or where it breaks the structure
    raise YamlError(text.count("\n", 0, found.start()) + 1, "", _unsafe(found[0]))


def _read(text: str, number_keys: bool) -> Plain:
    node = _composed(text)
    reader = _Reader(number_keys)
    value: JsonValue = None
    if node is not None:
        reader.merge(node, ())
        reader.measure(node, (), REPEATED + 2 * len(text))
        value = reader.value_of(node, ())
    return Plain(node, value, reader.texts)


def dotted(keys: Sequence[str | int]) -> str:
    """Write a key path as messages do: `teacher[1].train` of ("teacher", 1, "train").

    The keys may be a stranger's: control characters are escaped, and long keys are cut.
    """
    written = (f"[{key}]" if isinstance(key, int) else f".{_cut(printable(key))}" for key in keys)
    return "".join(written).lstrip(".")


def _cut(key: str, most: int = 100) -> str:
    return key if len(key) <= most else f"{key[: most - 1]}…"


if TYPE_CHECKING:
    from yaml import SafeLoader as _Parser
else:  # libyaml's parser, where PyYAML has it, is ten times as fast as that in Python
    _Parser = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Parser):
    """Parser that leaves the meaning of scalars to `_scalar`."""

    def resolve(self, kind: type[yaml.Node], _value: str, implicit: object) -> str:
        """Tell a scalar without quotes and tag from all others."""
        if kind is yaml.ScalarNode:
            return _PLAIN if isinstance(implicit, tuple) and implicit[0] else f"{_STANDARD}str"
        return f"{_STANDARD}{'seq' if kind is yaml.SequenceNode else 'map'}"


def _composed(text: str) -> yaml.Node | None:
    """Parse a text; its depth is known before the parser, which recurses, sees it."""
    try:
        depth = documents = 0
        for event in yaml.parse(text, Loader=_Loader):
            line = event.start_mark.line + 1 if event.start_mark else 1
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise YamlError(line, "", "begins a second document; keep one (no line of ---)")
            elif isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > MOST_DEPTH:
                    raise YamlError(line, "", f"is nested more than {MOST_DEPTH} levels deep")
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = error.problem or error.context or "the structure is not clear"
        line = mark.line if mark else 0
        written = "".join(text.split("\n")[line : line + 1])
        if "undefined alias" in problem and mark:
            problem = f"the alias {written[mark.column :].split(',')[0].strip(' ]}')} names nothing"
        elif "\t" in written[: len(written) - len(written.lstrip())]:
            problem = "a tab stands where spaces are expected; indent with spaces"
        raise YamlError(line + 1, "", f"is not plain YAML: {problem}") from None
    except (yaml.YAMLError, ValueError, OverflowError, LookupError, RecursionError):
        # of the scanner: escapes and directives that name no character and no version
        raise YamlError(1, "", "is not plain YAML: an escape or directive is not valid") from None
    return node


class _Reader:
    """Turns the nodes of one document into plain data."""

    def __init__(self, number_keys: bool) -> None:
        self.number_keys = number_keys
        self.texts: dict[Key, str] = {}
        self._merged: dict[int, bool] = {}  # id of a node -> whether all below it is done
        self._sizes: dict[int, int] = {}

    def merge(self, node: yaml.Node, keys: Key) -> None:
        """Check keys, and put what `<<` names in its place, once per node."""
        if id(node) in self._merged:
            if not self._merged[id(node)]:
                raise YamlError(_line(node), dotted(keys), "contains itself by an alias (*name)")
            return
        self._merged[id(node)] = False
        if isinstance(node, yaml.SequenceNode):
            for place, child in enumerate(node.value):
                self.merge(child, (*keys, place))
        elif isinstance(node, yaml.MappingNode):
            self._check_keys(node, keys)
            for name, child in node.value:
                self.merge(child, (*keys, name.value))
            node.value = _with_merged(node, keys)
        self._merged[id(node)] = True

    def _check_keys(self, node: yaml.MappingNode, keys: Key) -> None:
        seen: dict[object, int] = {}
        for name, _ in node.value:
            key = self._key(name, keys)
            if key in seen:
                raise YamlError(
                    _line(name),
                    dotted((*keys, key)),
                    f"stands twice in one section (first on line {seen[key]}); keep one",
                )
            seen[key] = _line(name)

    def _key(self, node: yaml.Node, keys: Key) -> str | int:
        if not isinstance(node, yaml.ScalarNode):
            what = "list" if isinstance(node, yaml.SequenceNode) else "section"
            raise YamlError(_line(node), dotted(keys), f"a {what} stands as a key; a key is a word")
        key = _scalar(node, keys)
        if isinstance(key, str) or (
            self.number_keys and isinstance(key, int) and not isinstance(key, bool)
        ):
            return key
        raise YamlError(
            _line(node),
            dotted((*keys, node.value or "null")),
            f"{shown(node.value)} stands as a key; a key is a word; put it in quotes",
        )

    def measure(self, node: yaml.Node, keys: Key, most: int) -> int:
        """Count the characters of a node with all aliases written out; expands nothing."""
        size = self._sizes.get(id(node))
        if size is None:
            size = 1
            if isinstance(node, yaml.ScalarNode):
                size += len(node.value)
            elif isinstance(node, yaml.SequenceNode):
                for place, child in enumerate(node.value):
                    size += self.measure(child, (*keys, place), most)
            else:
                for name, child in node.value:
                    size += 1 + len(name.value) + self.measure(child, (*keys, name.value), most)
            self._sizes[id(node)] = size
        if size > most:
            raise YamlError(
                _line(node),
                dotted(keys),
                f"its aliases (*name), written out, would give more than {most} characters; write "
                "the values themselves",
            )
        return size

    def value_of(self, node: yaml.Node, keys: Key) -> "JsonValue":
        """Return the plain data of a node; remember how its scalars are written."""
        if isinstance(node, yaml.ScalarNode):
            value = _scalar(node, keys)
            if node.tag == _PLAIN:
                self.texts[keys] = node.value
            return value
        kind = "seq" if isinstance(node, yaml.SequenceNode) else "map"
        if node.tag != f"{_STANDARD}{kind}":
            raise YamlError(_line(node), dotted(keys), _tag_problem(node.tag))
        if isinstance(node, yaml.SequenceNode):
            return [self.value_of(child, (*keys, place)) for place, child in enumerate(node.value)]
        found: dict[str, JsonValue] = {}
        for name, child in node.value:
            key: Any = self._key(name, keys)  # a number only where those are asked for
            found[key] = self.value_of(child, (*keys, key))
        return found


def _with_merged(node: yaml.MappingNode, keys: Key) -> list[tuple[yaml.ScalarNode, yaml.Node]]:
    """Return the pairs of a mapping; of those that `<<` brings, the ones it lacks."""
    own = [(name, child) for name, child in node.value if not _is_merge(name)]
    known = {name.value for name, _ in own}
    for name, child in node.value:
        if not _is_merge(name):
            continue
        sources = child.value if isinstance(child, yaml.SequenceNode) else [child]
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise YamlError(_line(name), dotted((*keys, "<<")), "expected a section to merge")
            for key, value in source.value:
                if key.value not in known:
                    known.add(key.value)
                    own.append((key, value))
    return own


def _is_merge(name: yaml.Node) -> bool:
    return name.tag in {_PLAIN, f"{_STANDARD}merge"} and name.value == "<<"


def _scalar(node: yaml.ScalarNode, keys: Key) -> str | int | float | bool | None:
    """Return the value of a scalar.

    Raises:
        YamlError: it has another tag than it looks like, is no finite number, or holds a character
            that no setting may hold.
    """
    text, line, key = node.value, _line(node), dotted(keys)
    if not (text.isascii() and text.isprintable()):
        unsafe = (one for one in text if ord(one) >= _STAND_IN or unsafe_character(one))
        for one in unsafe:
            if one not in "\n\t" or node.style not in {"|", ">"}:
                raise YamlError(line, key, _unsafe(one))
    if node.tag in {f"{_STANDARD}str", f"{_STANDARD}merge"}:
        return str(text)
    if node.tag == _PLAIN:
        return _resolved(text, line, key)
    kind = node.tag.removeprefix(_STANDARD)
    if kind not in _KINDS or kind == node.tag:
        raise YamlError(line, key, _tag_problem(node.tag))
    value = _resolved(text, line, key)
    if not isinstance(value, _KINDS[kind]) or (kind == "int" and isinstance(value, bool)):
        raise YamlError(
            line, key, f"the tag !!{kind} does not fit {shown(text)}; leave the tag out"
        )
    return value


def _resolved(text: str, line: int, key: str) -> str | int | float | bool | None:
    """Return the meaning of a scalar without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    whole = _INT.fullmatch(text)
    if whole or _FLOAT.fullmatch(text):
        digits = sum(character.isdigit() for character in text)
        if digits > MOST_DIGITS:
            raise YamlError(
                line, key, f"a number of {digits} digits; expected at most {MOST_DIGITS}"
            )
        if whole:
            return int(text, 0)
        if not text.lstrip("+-").isdigit():  # as 017 is
            number = float(text)
            if math.isfinite(number):
                return number
            raise YamlError(line, key, f"expected a finite number, found {text}")
    if _NO_NUMBER.fullmatch(text):
        raise YamlError(line, key, f"expected a finite number, found {text}")
    return text


def _tag_problem(tag: str) -> str:
    name = f"!!{tag.removeprefix(_STANDARD)}" if tag.startswith(_STANDARD) else tag
    return f"is not plain YAML: the tag {shown(name)} is not read; leave it out"


def _unsafe(character: str) -> str:
    number = ord(character)
    number = number - _STAND_IN if number >= _STAND_IN else number
    return f"holds the control character U+{number:04X}; remove it"


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
