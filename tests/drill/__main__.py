"""`python -m tests.drill KIND [--count N] [--seed S]`: make wrong inputs by the hundred, and judge.

Each kind is a module with `drill(folder, seed, count)`, which returns counts with a `line()` and
the list of promises that were not kept. Exit code 1 if there is one.
"""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

KINDS = {
    "bundles": "tests.drill.bundles",
    "data": "tests.drill.data",
    "kills": "tests.drill.kills",
    "recipes": "tests.drill.recipes",
    "stores": "tests.drill.stores",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one kind; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.drill", description=__doc__)
    parser.add_argument("kind", choices=sorted(KINDS))
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    module = importlib.import_module(KINDS[options.kind])
    with tempfile.TemporaryDirectory() as folder:
        counts = module.drill(Path(folder), options.seed, options.count)
    for line in (*counts.broken, counts.line()):
        sys.stdout.write(f"{line}\n")
    return 1 if counts.broken else 0


if __name__ == "__main__":
    sys.exit(main())
