"""JSON of a file may be nested a thousand times: who catches its mistakes catches that too."""

import ast
from pathlib import Path

import pytest

from tests.architecture.sources import tree_of

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    path
    for package in ("benchmarks", "compress", "export", "slimdet")
    for path in (ROOT / package).rglob("*.py")
    if "json.loads(" in path.read_text(encoding="utf-8") and "studies" not in path.parts
)
MISTAKES = {"ValueError", "JSONDecodeError", "UnicodeDecodeError"}


def caught(node: ast.Try | ast.With) -> set[str]:
    """Return the errors that a statement catches or suppresses."""
    found: list[ast.expr] = []
    if isinstance(node, ast.Try):
        found = [handler.type for handler in node.handlers if handler.type is not None]
    else:
        calls = [item.context_expr for item in node.items]
        found = [
            argument
            for call in calls
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("suppress")
            for argument in call.args
        ]
    names = [one for each in found for one in ast.walk(each) if isinstance(one, ast.Name)]
    attributes = [one for each in found for one in ast.walk(each) if isinstance(one, ast.Attribute)]
    return {one.id for one in names} | {one.attr for one in attributes}


def reads_json(node: ast.Try | ast.With) -> bool:
    inside = [child for statement in node.body for child in ast.walk(statement)]
    calls = [ast.unparse(one.func) for one in inside if isinstance(one, ast.Call)]
    return "json.loads" in calls


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_deep_nesting_is_caught_with_other_mistakes(path: Path) -> None:
    lacking = [
        node.lineno
        for node in ast.walk(tree_of(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Try | ast.With) and reads_json(node)
        if (errors := caught(node)) & MISTAKES and "RecursionError" not in errors
    ]
    assert not lacking
