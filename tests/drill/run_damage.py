"""Damage to one file of a run folder, and the advice of the message that it brings."""

import random
import re
import shutil
from pathlib import Path

DAMAGES = ("cut", "empty", "flip", "noise", "odd", "remove", "swap", "folder")
ODD = (b"{}", b"[]", b"null", b"\0" * 64, b"\xff\xfe", b"[" * 5000, b'{"schema": 99}', b"9" * 5000)
ADVICE = re.compile(r"\b(?:delete|remove) (\S+?)[,;.)]?(?= |$)", re.MULTILINE)


def kinds_of_files(home: Path) -> dict[str, list[Path]]:
    """Return the files of a run folder and of the folder of all runs by kind."""
    found: dict[str, list[Path]] = {}
    for path in sorted(home.parent.rglob("*")):
        if path.is_file():
            parts = path.relative_to(home.parent).parts
            place = parts[1] if len(parts) > 2 else ""
            name = path.name if len(parts) < 5 and place != "calibration" else path.suffix
            found.setdefault(f"{place}/{name.split('.17')[0]}", []).append(path)
    return found


def damage(path: Path, kind: str, chance: random.Random) -> None:
    """Damage one file in one way."""
    content = path.read_bytes()
    if kind == "cut":
        path.write_bytes(content[: chance.randrange(len(content) + 1)])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "flip" and content:
        changed = bytearray(content)
        for _ in range(chance.choice((1, 3, 30))):
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
        path.write_bytes(bytes(changed))
    elif kind == "noise":
        path.write_bytes(chance.randbytes(max(1, len(content))))
    elif kind == "odd":
        path.write_bytes(chance.choice(ODD))
    elif kind == "swap":
        runs = path.parent
        while runs.parent.name != "runs" and runs != runs.parent:
            runs = runs.parent
        others = [p for p in runs.rglob(f"*{path.suffix}") if p.is_file() and p != path]
        path.write_bytes(chance.choice(others).read_bytes() if others else b"other")
    else:
        path.unlink()
        if kind == "folder":
            path.mkdir()


def advised(said: str, within: Path) -> Path | None:
    """Do what a message says, `delete PATH`; return what was deleted, None if it says no such."""
    for found in ADVICE.findall(said):
        place = said.rpartition("error: ")[2].partition(": ")[0] if found == "it" else found
        path = Path(place.strip("'\""))
        if path.exists() and path.resolve().is_relative_to(within.resolve()):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
            return path
    return None
