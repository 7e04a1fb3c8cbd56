"""Files and functions that one person can read."""

from pathlib import Path

from tests.architecture.sources import functions_in, tree_of

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("slimdet", "compress", "export", "benchmarks", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
VAGUE = {"utils", "helpers", "common", "misc"}
MOST_LINES, LONGEST = 400, 80  # of a file, of a function


def too_much(path: Path, text: str) -> list[str]:
    """Say what makes a file hard to read."""
    lines = text.count("\n")
    found = [f"{path}: the name says nothing"] if path.stem in VAGUE else []
    found += [f"{path}: {lines} lines"] if lines > MOST_LINES else []
    for function in functions_in(tree_of(text)):
        length = (function.end_lineno or 0) - function.lineno
        found += [f"{path}: {length} lines of {function.name}"] if length > LONGEST else []
    return found


def test_every_file_and_function_stays_readable() -> None:
    found = [
        problem
        for path in FILES
        for problem in too_much(path.relative_to(ROOT), path.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_a_file_that_is_hard_to_read_is_found() -> None:
    long = "def f():\n" + "    pass\n" * (LONGEST + 1)
    assert too_much(Path("a/utils.py"), long) == [
        "a/utils.py: the name says nothing",
        f"a/utils.py: {LONGEST + 1} lines of f",
    ]
    assert too_much(Path("a/b.py"), "\n" * (MOST_LINES + 1)) == [f"a/b.py: {MOST_LINES + 1} lines"]
    assert too_much(Path("a/b.py"), "def f():\n    pass\n") == []


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
