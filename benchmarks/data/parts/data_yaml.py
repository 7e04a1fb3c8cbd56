"""YOLO's `data.yaml`: class names as they are written, and where the splits lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.data.parts.class_names import checked_names
from benchmarks.data.parts.splits import SPLITS
from benchmarks.data.parts.text import read_text
from benchmarks.data.parts.values import number_in
from export.errors import DataError, shown

_NULL = "tag:yaml.org,2002:null"
_OWN_TAGS = tuple(
    f"tag:yaml.org,2002:{name}"
    for name in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp", "merge", "value")
)
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True)
class DataYaml:
    """What is used of a `data.yaml`.

    Attributes:
        file: the file.
        names: class names, checked.
        path: folder that the splits are relative to, as written; None if not stated.
        splits: name -> entries, as written; only those that are named.
        pose: each box is followed by its key points.
    """

    file: Path
    names: tuple[str, ...]
    path: str | None
    splits: Mapping[str, tuple[str, ...]]
    pose: bool


def read_data_yaml(file: Path) -> DataYaml:
    """Read a `data.yaml`.

    Values are taken as they are written: a class called `no` or `1.0` keeps its name. Nothing is
    built from tags, and an alias is never expanded.

    Raises:
        DataError: missing, not YAML, or wrong names, splits or `nc`.
    """
    keys = _keys(file)
    if "names" not in keys:
        raise DataError(f"{file}: names: expected a list or a map of class names, found nothing")
    names = _class_names(keys["names"], file)
    if "nc" in keys:
        stated = number_in(_text(keys["nc"], f"{file}: nc"))
        if stated != len(names):
            raise DataError(
                f"{file}: nc is {shown(keys['nc'].value)[1:-1]}, but names holds {len(names)}"
            )
    splits = {
        split: tuple(_text(node, f"{file}: {split}") for node in _entries(keys[split]))
        for split in SPLITS
        if split in keys and not _is_null(keys[split])
    }
    named = {split: entries for split, entries in splits.items() if any(entries)}
    path = None
    if "path" in keys and not _is_null(keys["path"]):
        path = _text(keys["path"], f"{file}: path") or None
    return DataYaml(file, names, path, named, "kpt_shape" in keys)


def looks_like_data_yaml(file: Path) -> bool:
    """Whether a YAML file of any name has the keys of a `data.yaml`."""
    try:
        keys = _keys(file)
    except DataError:
        return False
    return "names" in keys and bool({"train", "val"} & set(keys))


def _keys(file: Path) -> dict[str, yaml.Node]:
    """Return the keys of the file's top level with their nodes."""
    text = read_text(file, "YOLO's data.yaml")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except RecursionError:
        raise DataError(f"{file}: cannot be read as YAML: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
        said = shown(error.problem or error.context or "")[1:-1]
        raise DataError(f"{file}: cannot be read as YAML: {said}{line}") from None
    except (yaml.YAMLError, ValueError) as error:
        said = shown(" ".join(str(error).split()), 200)[1:-1]
        raise DataError(f"{file}: cannot be read as YAML: {said}") from None
    if not isinstance(root, yaml.MappingNode):
        raise DataError(f"{file}: expected keys such as train, val and names")
    strange = _strange_tag(root)
    if strange is not None:
        raise DataError(f"{file}: cannot be read as YAML: the tag {strange} is not known")
    found: dict[str, yaml.Node] = {}
    for key, value in root.value:
        if key.tag == _MERGE:
            raise DataError(f"{file}: the merge key `<<` is not read here; write the keys out")
        if isinstance(key, yaml.ScalarNode):
            if key.value in found:
                raise DataError(f"{file}: the key {shown(key.value)} is there twice")
            found[key.value] = value
    return found


def _strange_tag(root: yaml.Node) -> str | None:
    """Return a tag that is none of YAML's own; each node is looked at once, however often used."""
    nodes, seen = [root], set[int]()
    while nodes:
        node = nodes.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if not node.tag.startswith(_OWN_TAGS):
            return shown(node.tag)[1:-1]
        if isinstance(node, yaml.MappingNode):
            nodes += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
    return None


def _class_names(node: yaml.Node, file: Path) -> tuple[str, ...]:
    if isinstance(node, yaml.MappingNode):
        by_number: dict[int, yaml.Node] = {}
        for key, value in node.value:
            said = _text(key, f"{file}: names")
            label = number_in(said)
            if label is None or not label.is_integer() or label < 0:
                raise DataError(f"{file}: names: key {shown(said)}; expected 0, 1, 2, ...")
            if int(label) in by_number:
                raise DataError(f"{file}: names: key {shown(said)} is there twice")
            by_number[int(label)] = value
        if sorted(by_number) != list(range(len(by_number))):
            keys = shown(sorted(by_number)[:5])
            raise DataError(f"{file}: names: keys {keys}...; expected 0, 1, 2, ...")
        nodes = [by_number[label] for label in range(len(by_number))]
    elif isinstance(node, yaml.SequenceNode):
        nodes = node.value
    else:
        raise DataError(
            f"{file}: names: expected a list or a map of class names, found {shown(node.value)}"
        )
    written = [_text(name, f"{file}: names[{place}]") for place, name in enumerate(nodes)]
    return checked_names(written, file, lambda index: f"{file}: names[{index}]")


def _entries(node: yaml.Node) -> Sequence[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else [node]


def _text(node: yaml.Node, where: str) -> str:
    """Return a scalar as it is written."""
    if not isinstance(node, yaml.ScalarNode):
        raise DataError(f"{where}: found a list or a map where one text was expected")
    if _is_null(node):
        raise DataError(f"{where}: found null; expected a text (in quotes, if that is its name)")
    text: str = node.value
    return text


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == _NULL)
