"""Files and functions that one person can read."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("compress", "export", "benchmarks", "tests")
FILES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
VAGUE = {"utils", "helpers", "common", "misc"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_stays_readable(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert path.stem not in VAGUE
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno <= 80, f"{node.name} is too long"


def test_the_top_level_holds_what_the_readme_says() -> None:
    for name in (
        "pyproject.toml",
        "README.md",
        "compress",
        "recipes",
        "export",
        "tests",
        "benchmarks",
    ):
        assert (ROOT / name).exists()
