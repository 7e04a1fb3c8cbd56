"""What commands print passes through one of the functions that escape control characters."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("compress", "export", "benchmarks", "slimdet")
PRINT = re.compile(r"(?<![.\w])print\((?!json\.dumps\()")
STUDIES = ROOT / "benchmarks" / "studies"  # of this repository's own data


def raw_prints(source: str) -> Iterator[int]:
    """Yield the lines that print anything but JSON, which is ASCII."""
    if not PRINT.search(source):  # most files, which need no parsing
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and PRINT.match(ast.unparse(node)):
            yield node.lineno


def test_only_json_is_printed_as_it_is() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if b"print(" in path.read_bytes() and STUDIES not in path.parents
        for line in raw_prints(path.read_text(encoding="utf-8"))
    ]
    assert found == [], "use export.arguments.say"


def test_a_raw_print_is_found() -> None:
    assert list(raw_prints("print(json.dumps({}))\nprint(name)\nself.print(name)")) == [2]
