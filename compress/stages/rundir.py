"""The run folder: finished rooms, one owner at a time, and a record of what made it."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.atomic import write_json, write_text
from export.errors import RecipeError, ToolkitError

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs in one folder go unnoticed there
    fcntl = None  # type: ignore[assignment]

Settings = dict[str, Any]


def once(room: Path, make: Callable[[Path], None]) -> Path:
    """Let `make` fill a folder and move it to `room` when it is whole; skip if it exists.

    A room that exists is therefore finished, and a run that was cut goes on from there.
    """
    if room.exists():
        return room
    partial = room.with_name(room.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        make(partial)
        partial.replace(room)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ToolkitError(
            f"{room}: this stage could not be written ({error}). Finished stages are kept; "
            "make room or mend the folder, then run the same command again"
        ) from error
    return room


def open_run(
    runs: Path,
    name: str,
    resolved: Settings,
    recipe_text: str,
    anew: Callable[[Settings], Settings] = lambda before: before,
) -> Path:
    """Make or reopen `runs/name`.

    Args:
        runs: the folder of all runs.
        name: of this one.
        resolved: every setting of it.
        recipe_text: the recipe as it was written.
        anew: completes the settings of a run that an earlier version made.

    Raises:
        RecipeError: the folder was made by a recipe with other settings.
    """
    home = runs / name
    if not home.resolve().is_relative_to(runs.resolve()):
        raise RecipeError(f"name: {name!r} leads out of the folder {runs}; use a plain name")
    lock = home / "recipe.lock.json"
    if lock.exists():
        try:
            before = json.loads(lock.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecipeError(
                f"{lock}: is not JSON ({error}); choose another name or delete {home}"
            ) from error
        changed = differences(anew(before), resolved)
        if changed:
            raise RecipeError(
                f"{home} was made with {changed[0][0]}: {changed[0][1]}, the recipe says "
                f"{changed[0][2]}{_and_more(changed)}; choose another name or delete it"
            )
        return home
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolkitError(
            f"{home}: cannot be made ({error.strerror}); choose another folder with --runs"
        ) from error
    write_text(recipe_text, home / "recipe.yaml")
    write_json(resolved, lock)
    return home


def _and_more(changed: list[tuple[str, Any, Any]]) -> str:
    names = ", ".join(key for key, _, _ in changed[1:4])
    return f" (also different: {names}{' ...' if len(changed) > 4 else ''})" if names else ""


def differences(before: Any, after: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """Every leaf that differs between two JSON trees, as (dotted key, before, after)."""
    if isinstance(before, dict) and isinstance(after, dict):
        found = []
        for name in sorted({*before, *after}):
            found += differences(
                before.get(name), after.get(name), f"{key}.{name}" if key else str(name)
            )
        return found
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = enumerate(zip(before, after, strict=True))
        return [d for i, (b, a) in pairs for d in differences(b, a, f"{key}[{i}]")]
    return [] if before == after else [(key, _brief(before), _brief(after))]


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


@contextmanager
def owned(home: Path) -> Iterator[None]:
    """Hold the run folder, so that two processes never write into one run.

    Raises:
        RecipeError: another process holds it.
    """
    if fcntl is None:
        yield
        return
    with (home / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RecipeError(
                f"{home} is in use by another process; wait for it, or choose another name"
            ) from None
        yield
