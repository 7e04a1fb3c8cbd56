"""Run slimdet's commands in a folder of a user's, as an installed package would run there."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "import sys\nfrom slimdet.__main__ import main\nsys.exit(main())\n"  # what pip writes


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder`; the packages are on its path after the folder, as site-packages."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )


def slimdet(*arguments: object, folder: Path, scripts: Path) -> subprocess.CompletedProcess[str]:
    """Run the console script, which lies in `scripts`, in `folder`."""
    script = scripts / "slimdet"
    if not script.exists():
        script.write_text(SCRIPT)
    return run(script, *arguments, folder=folder)
