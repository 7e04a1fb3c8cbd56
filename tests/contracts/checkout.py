"""A copy of the packages with one module and one entry added, as a contributor would add them."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("_slimdet_packages.py", "benchmarks", "compress", "export", "pyproject.toml", "tests")
SKIPPED = shutil.ignore_patterns("__pycache__", "results", "*.npz")


@dataclass(frozen=True)
class Checkout:
    """A source tree of its own."""

    root: Path

    def add(self, module: str, text: str) -> None:
        """Write a new module; a file of that name must not exist."""
        with (self.root / module).open("x", encoding="utf-8") as file:
            file.write(text)

    def insert(self, module: str, before: str, line: str) -> None:
        """Insert a line before the one that begins with `before`."""
        path = self.root / module
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        (place,) = [index for index, one in enumerate(lines) if one.startswith(before)]
        lines.insert(place, line + "\n")
        path.write_text("".join(lines), encoding="utf-8")

    def add_toy(self, folder: str, text: str, beside: str, member: str) -> None:
        """Add `folder`/toy.py with a ToyConfig, and its entry of the folder's union.

        Args:
            folder: such as compress/losses.
            text: source of the module.
            beside: module of the union's last member.
            member: name of its settings class.
        """
        self.add(f"{folder}/toy.py", text)
        package, entry = folder.replace("/", "."), f"{folder}/__init__.py"
        self.insert(entry, f"from {package}.{beside}", f"from {package}.toy import ToyConfig")
        self.insert(entry, f"    | {member}", "    | ToyConfig")

    def python(self, *arguments: str, fails: bool = False) -> str:
        """Run Python in the tree and return what it writes; it must succeed, or fail if `fails`."""
        environment = {**os.environ, "PYTHONPATH": str(self.root), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout


def copy_to(folder: Path) -> Checkout:
    """Copy the packages into `folder`."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=SKIPPED)
        else:
            shutil.copy(source, folder / name)
    return Checkout(folder)
