"""Every name and call of TensorRT's and CUDA's APIs that the sources use, read from their text.

`trt.X.Y` is found as it stands. A method is found where its object's variable is annotated, as in
`builder: tensorrt.Builder = ...`, so the sources annotate every object of TensorRT's.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[4] / "export"


@dataclass(frozen=True)
class Use:
    """One use of a name of an API.

    Attributes:
        owner: class of the object, empty for the module itself.
        name: possibly dotted, as in `BuilderFlag.TF32`.
        arguments: how many are given in a call; None where it is not called.
        place: file and line.
    """

    owner: str
    name: str
    arguments: int | None
    place: str


def tensorrt_uses() -> list[Use]:
    """Return all uses of the module `trt` and of its annotated objects."""
    return [use for path in _files() for use in _uses(path, {"trt": ""}, annotated=True)]


def cuda_uses() -> list[Use]:
    """Return all uses of cuda-python's runtime module."""
    return [use for path in _files() for use in _uses(path, {"cuda": "", "_cuda": ""})]


def _files() -> list[Path]:
    found = [*sorted((SOURCES / "backends").rglob("*.py")), SOURCES / "verify.py"]
    return [path for path in found if "trt" in (text := path.read_text()) or "cuda" in text]


def _uses(path: Path, roots: dict[str, str], annotated: bool = False) -> Iterator[Use]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    owners = {**roots, **(_annotations(tree) if annotated else {})}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or id(node) in inner:
            continue
        root, *names = _chain(node)
        if root == "self" and names:
            root, *names = names
        if root not in owners or not names or names[0].startswith("_"):
            continue
        call = calls.get(id(node))
        count = None if call is None else len(call.args) + len(call.keywords)
        if call is not None and any(isinstance(value, ast.Starred) for value in call.args):
            count = None
        name = ".".join(names) if owners[root] == "" else names[0]
        yield Use(owners[root], name, count, f"{path.name}:{node.lineno}")


def _annotations(tree: ast.AST) -> dict[str, str]:
    """Return variable -> class of TensorRT's, from annotations of arguments and of assignments."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            name, annotation = node.arg, node.annotation
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, node.annotation
        else:
            continue
        match = re.search(r"\b(?:tensorrt|trt)\.(\w+)", ast.unparse(annotation))
        if match:
            assert found.setdefault(name, match[1]) == match[1], f"{name} is of two classes"
    return found


def _chain(node: ast.expr) -> list[str]:
    """Read `a.b.c` as ["a", "b", "c"]; [""] where it does not begin with a name."""
    if isinstance(node, ast.Attribute):
        return [*_chain(node.value), node.attr]
    return [node.id] if isinstance(node, ast.Name) else [""]


def argument_counts(function: Any) -> list[tuple[int, int]]:
    """Return (fewest, most) arguments of each overload, `self` left out, from a docstring.

    Pybind and Cython state signatures there: `f(self: A, b: int, c: str = None) -> bool`.
    """
    text = (inspect.getdoc(function) or "").replace("\n", " ")
    name = getattr(function, "__name__", "")
    counts = []
    for match in re.finditer(rf"\b{re.escape(name)}\(", text):
        inside = _parenthesis(text[match.end() :])
        if inside is None or "*args" in inside:
            continue
        parts = [part.strip() for part in _split(inside) if part.strip()]
        parts = [part for part in parts if not re.match(r"self\b", part)]
        most, optional = len(parts), sum("=" in part for part in parts)
        counts.append((most - optional, most))
    return counts


def _parenthesis(text: str) -> str | None:
    depth = 1
    for index, character in enumerate(text):
        depth += {"(": 1, "[": 1, "<": 1, ")": -1, "]": -1}.get(character, 0)
        depth -= character == ">" and text[index - 1] != "-"
        if depth == 0:
            return text[:index]
    return None


def _split(text: str) -> list[str]:
    """Split at the commas that no bracket holds."""
    parts, depth = [""], 0
    for index, character in enumerate(text):
        depth += {"(": 1, "[": 1, "<": 1, ")": -1, "]": -1}.get(character, 0)
        depth -= character == ">" and text[index - 1] != "-"
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts
