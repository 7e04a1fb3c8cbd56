"""A backend is found by its entry in `BACKENDS`; nothing outside its folder asks for its name."""

import ast
from collections.abc import Iterator

import pytest

from export.backends import BACKENDS
from tests.architecture.sources import tree_of
from tests.architecture.test_imports import FILES, ROOT

BACKEND_ROOM = ROOT / "export" / "backends"
NAMES = frozenset(BACKENDS)


def asked_names(tree: ast.AST) -> Iterator[str]:
    """Backend names that a comparison, a membership test or a `match` has on either side."""
    for node in ast.walk(tree):
        sides: list[ast.expr] = []
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            sides = [node.value]
        for side in sides:
            members = side.elts if isinstance(side, ast.Tuple | ast.List | ast.Set) else [side]
            for member in members:
                if isinstance(member, ast.Constant) and member.value in NAMES:
                    yield f"line {member.lineno}: {member.value}"


def test_no_file_outside_the_backends_compares_with_the_name_of_one() -> None:
    texts = {path: path.read_text("utf-8") for path in FILES if BACKEND_ROOM not in path.parents}
    found = {
        path.relative_to(ROOT).as_posix(): list(asked_names(tree_of(text)))
        for path, text in texts.items()
        if any(name in text for name in NAMES)
    }
    assert {name: asked for name, asked in found.items() if asked} == {}


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_does_not_ask_for_the_name_of_another(name: str) -> None:
    for path in (BACKEND_ROOM / name).rglob("*.py"):
        found = list(asked_names(tree_of(path.read_text(encoding="utf-8"))))
        assert [use for use in found if not use.endswith(f": {name}")] == [], path


@pytest.mark.parametrize(
    "code",
    [
        'x = 1 if manifest.backend == "tensorrt" else 2',
        'x = "onnxruntime" != row["backend"]',
        'x = backend in ("torch", "tensorrt")',
        'match backend:\n    case "tensorrt":\n        pass',
    ],
)
def test_such_a_comparison_is_seen(code: str) -> None:
    assert len(list(asked_names(ast.parse(code)))) == 1


@pytest.mark.parametrize("name", BACKENDS)
def test_a_session_file_imports_nothing_of_ours(name: str) -> None:
    """Bundles hold a copy of it; at the top it may import numpy and the standard library alone."""
    tree = ast.parse(BACKENDS[name].session.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in {"export", "benchmarks", "compress"}
        elif isinstance(node, ast.Import):
            assert not {alias.name.split(".")[0] for alias in node.names} & {"export", "benchmarks"}
