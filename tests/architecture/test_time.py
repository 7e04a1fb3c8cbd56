"""No test depends on how fast a machine is, or on what else it is doing."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.sources import functions_in, tree_of

TESTS = Path(__file__).resolve().parents[1]
CLOCKS = {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "time", "time_ns"}
# a time is held to one that was measured around it, which is longer whatever the machine does
AROUND = {"export/backends/tensorrt/test_engine.py: test_events_time_no_more_than_the_host_does"}


def names_a_clock(node: ast.AST, read: set[str]) -> bool:
    """Say whether a value is made of what a clock said; what other calls are given is not."""
    if isinstance(node, ast.Call):
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        return name in CLOCKS and not (node.args or node.keywords)
    if isinstance(node, ast.Name):
        return node.id in read
    return any(names_a_clock(child, read) for child in ast.iter_child_nodes(node))


def functions_that_compare_times(text: str) -> Iterator[str]:
    """Yield the functions with an assertion that compares what a real clock said."""
    if not any(f"{clock}(" in text for clock in CLOCKS):
        return
    for function in functions_in(tree_of(text)):
        read: set[str] = set()
        for node in ast.walk(function):
            if isinstance(node, ast.Assign) and names_a_clock(node.value, read):
                read |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        asserted = [node.test for node in ast.walk(function) if isinstance(node, ast.Assert)]
        compared = [
            node for test in asserted for node in ast.walk(test) if isinstance(node, ast.Compare)
        ]
        if any(names_a_clock(node, read) for node in compared):
            yield function.name


def test_no_test_asserts_how_long_something_takes() -> None:
    found = {
        f"{path.relative_to(TESTS).as_posix()}: {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for name in functions_that_compare_times(path.read_text(encoding="utf-8"))
    }
    assert found == AROUND


def test_an_assertion_on_time_is_found_and_a_deadline_is_not_one() -> None:
    begin = "import time\ndef test_a():\n    start = time.monotonic()\n    run()\n"
    for line in (
        "assert time.monotonic() - start < 5",
        "took = time.perf_counter() - start\n    assert 2 * took < 5",
        "assert made and (time.time() - start) / 2 <= 1",
    ):
        assert list(functions_that_compare_times(f"{begin}    {line}\n")) == ["test_a"]
    for line in ("assert process.wait(timeout=start) == 0", "assert clock.ms() < 5"):
        assert list(functions_that_compare_times(f"{begin}    {line}\n")) == []
