"""The run folder: finished stages, a lock, the recipe, and the records of trainings."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import Field, JsonValue

from benchmarks.record import Record
from benchmarks.timing.step_ratio import StepRatio, TeachingCost
from compress.recipe_source import Tree
from compress.training.conditions import Conditions
from compress.training.objective import Term
from compress.training.seals import (
    AGAIN,
    check_seal,
    finish_seals,
    seal,
    seal_of,
    write_sealed_json,
)
from export.atomic import require_writable, write_text
from export.errors import RecipeError, ToolkitError, shown

try:
    import fcntl
except ImportError:  # Windows has no flock; two processes in one folder are not detected there
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"  # in the run's folder
EQUAL_TIME = "equal_time.json"  # in the run's folder
TEACHING = "teach.json"  # in the run's folder
FILE_RECORD = "teacher.json"  # in the run's folder: description of a teacher that is a file
Difference = tuple[str, str, str]  # dotted key, before, after


class MeasuredTerm(Record):
    """Size of one distillation term after `step` steps; the other fields are those of `Term`."""

    step: int
    name: str
    value: float
    ratio: float
    gradient_ratio: float


class TrainingRecord(Record):
    """`training.json`: how the weights in a folder of `models/` were made.

    Attributes:
        precision_why: precision of the training with the reason for it, or "".
        rows: one entry per evaluation: step, learning rate, metrics and loss terms by name.
        terms: sizes of the distillation terms against the task loss, step by step.
        stopped: reason of an early end, or "".
        loaded: whether the weights come from a file and were not trained here.
        loaded_in_part: what a weights file left out, a line each.
        conditions: conditions of the steps, see `Conditions`.
        accuracy: share of crops that a classifier labels correctly, 0..1.
    """

    seed: int = 0
    steps: int = 0
    seconds: float | None = None
    step_ms: float | None = None
    precision_why: str = ""
    rows: tuple[dict[str, float | None], ...] = ()
    terms: tuple[MeasuredTerm, ...] = ()
    terms_at_first_step: tuple[Term, ...] = ()
    auto_weights: dict[str, float] = Field(default_factory=dict)
    stopped: str = ""
    loaded: bool = False
    loaded_in_part: tuple[str, ...] = ()
    conditions: tuple[Conditions, ...] = ()
    accuracy: float | None = None

    @property
    def last_ap(self) -> float | None:
        """AP of the last evaluation, 0..1; None if there was none or it had nothing to measure."""
        return self.rows[-1]["AP"] if self.rows else None


@contextmanager
def reading(path: Path, made: Path, cure: str = AGAIN) -> Iterator[None]:
    """Tell in one message what goes wrong while the body reads what an earlier stage wrote.

    Args:
        path: the file.
        made: what has to be deleted to make it again.
        cure: what deleting it makes the next start do.

    Raises:
        ToolkitError: the file is missing or damaged.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ToolkitError(
            f"{path}: cannot be read as what an earlier stage wrote ({type(error).__name__}); "
            f"restore it, or delete {made} to {cure}"
        ) from error


def read_record(folder: Path) -> TrainingRecord:
    """Read `training.json` of a finished model folder.

    Raises:
        ToolkitError: it is missing or damaged.
    """
    path = folder / "training.json"
    with reading(path, folder):
        return TrainingRecord.model_validate_json(path.read_text(encoding="utf-8"))


def read_step_ratio(home: Path) -> StepRatio | None:
    """Return a run's record of equal time; None if it was not measured.

    Raises:
        ToolkitError: it is damaged.
    """
    path, cure = home / EQUAL_TIME, "measure it again"
    if not path.exists():
        return None
    check_seal(path, cure)
    with reading(path, path, cure):
        return StepRatio.model_validate_json(path.read_text(encoding="utf-8"))


def read_teaching_costs(home: Path) -> dict[str, TeachingCost]:
    """Return what storing the outputs of each teacher cost; empty for a run without stores.

    Raises:
        ToolkitError: the record is damaged.
    """
    path, cure = home / TEACHING, "write it again"
    if not path.exists():
        return {}
    check_seal(path, cure)
    with reading(path, path, cure):
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: TeachingCost.model_validate(cost) for name, cost in found.items()}


def teaching_ms(home: Path) -> float:
    """Return what the teachers of a run cost before the training, in all.

    Raises:
        ToolkitError: the record is damaged.
    """
    return sum(cost.ms for cost in read_teaching_costs(home).values())


def file_teacher_notes(home: Path) -> list[str]:
    """Return the description of a teacher that is a file; empty where there is none.

    Raises:
        ToolkitError: the record is damaged.
    """
    path, cure = home / FILE_RECORD, "write it again"
    if not path.exists():
        return []
    check_seal(path, cure)
    with reading(path, path, cure):
        found = json.loads(path.read_text(encoding="utf-8"))
        said = [str(line) for line in found["lines"]]
        return [f"Teacher ({found['type']}): {'; '.join(said)}. It has no row in the table."]


def finished(folder: Path) -> bool:
    """Whether a stage is finished.

    Raises:
        ToolkitError: it is, but its files are not those that it wrote.
    """
    if folder.is_dir():
        check_seal(folder)
    elif folder.exists():
        raise ToolkitError(f"{folder}: is no folder; delete {folder} to {AGAIN}")
    return folder.exists()


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Fill a temporary folder with `make` and move it to `folder`; skip if `folder` exists.

    A `folder` that exists is therefore complete, and an interrupted run continues after it.

    Raises:
        ToolkitError: the stage cannot be written, or the files in `folder` are not those it wrote.
    """
    if finished(folder):
        return folder
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        make(partial)
        seal(folder, partial)
        partial.replace(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise ToolkitError(
            f"{folder}: this stage could not be written ({error}). Finished stages are kept; "
            "free space or correct the folder's permissions, then run the same command again"
        ) from error
    return folder


def check_home(
    runs: Path,
    name: str,
    resolved: Tree,
    anew: Callable[[Tree], Tree] = lambda before: before,
) -> bool:
    """Check that `runs/name` can hold a run of these settings; the arguments are `open_run`'s.

    Returns:
        Whether it holds one already, which would be resumed.

    Raises:
        RecipeError: the name leads elsewhere, or the folder was made with other settings.
        ToolkitError: the folder cannot be made, read or written to.
    """
    home = runs / name
    if not home.resolve().is_relative_to(runs.resolve()):
        raise RecipeError(f"name: {name!r} leads out of the folder {runs}; use a plain name")
    require_writable(home, "--runs")
    lock = home / "recipe.lock.json"
    if not lock.exists():
        _require_no_strangers(home)
        return False
    check_seal(lock, "go on with this recipe, if it is that of the run")
    try:
        before = json.loads(lock.read_text(encoding="utf-8"))
        if not isinstance(before, dict):
            raise ValueError("expected an object of settings")
    except OSError as error:
        raise ToolkitError(
            f"{lock}: cannot be read ({error.strerror}); correct its permissions, or choose "
            "another name"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(
            f"{lock}: is not JSON ({error}); delete {lock} to go on with this recipe, if it is "
            "that of the run, or choose another name"
        ) from error
    changed = differences(anew(before), resolved)
    if changed:
        raise RecipeError(
            f"{home} was made with {changed[0][0]}: {changed[0][1]}, the recipe says "
            f"{changed[0][2]}{_and_more(changed)}; choose another name or delete it"
        )
    return True


def _require_no_strangers(home: Path) -> None:
    """Refuse a folder with files that no run wrote; one whose lock was deleted still has a recipe.

    Raises:
        RecipeError: it holds files, and nothing tells that they are a run's.
    """
    if (home / "recipe.yaml").is_file() or seal_of(home / "recipe.lock.json").exists():
        return
    try:
        names = sorted(path.name for path in home.iterdir()) if home.is_dir() else []
    except OSError:
        return  # whether it can be written to was asked before
    strange = [  # a division of the data may be given before a run; the run is held to it
        name
        for name in names
        if name[0] != "." and not name.endswith(".partial") and name != "split.json"
    ]
    if strange:
        raise RecipeError(
            f"{home}: holds {shown(strange[0])} and is not the folder of a run; choose another name"
            " or another folder with --runs"
        )


def open_run(
    runs: Path,
    name: str,
    resolved: Tree,
    recipe_text: str,
    anew: Callable[[Tree], Tree] = lambda before: before,
) -> Path:
    """Create or reopen `runs/name`.

    Args:
        runs: folder of all runs.
        name: name of this run.
        resolved: all settings of this run.
        recipe_text: text of the recipe, overrides applied.
        anew: function that completes the settings of a run of an earlier version.

    Raises:
        RecipeError: the name leads elsewhere, or the folder was made with other settings.
        ToolkitError: the folder cannot be made, read or written to.
    """
    home = runs / name
    if check_home(runs, name, resolved, anew):
        if not (home / "recipe.yaml").is_file():
            write_text(recipe_text, home / "recipe.yaml")
        return home
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolkitError(
            f"{home}: cannot be made ({error.strerror}); choose another folder with --runs"
        ) from error
    write_text(recipe_text, home / "recipe.yaml")
    write_sealed_json(resolved, home / "recipe.lock.json")
    return home


def _and_more(changed: list[Difference]) -> str:
    names = ", ".join(key for key, _, _ in changed[1:4])
    return f" (also different: {names}{' ...' if len(changed) > 4 else ''})" if names else ""


def differences(before: JsonValue, after: JsonValue, key: str = "") -> list[Difference]:
    """Return every leaf that differs between two JSON trees, as (dotted key, before, after)."""
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


def _brief(value: JsonValue) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def require_unused(home: Path) -> None:
    """Check that no other process has locked the run folder, which need not exist.

    Raises:
        ToolkitError: as `owned` does.
    """
    if (home / LOCK).exists():
        with _locked(home):
            pass


@contextmanager
def owned(home: Path) -> Iterator[None]:
    """Lock the run folder while the body runs; first write the seals that a kill interrupted.

    Raises:
        RecipeError: another process has locked it.
        ToolkitError: the lock cannot be written, or the file system has no locks.
    """
    with _locked(home):
        finish_seals(home)
        yield


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """Lock the run folder against other processes while the body runs.

    Raises:
        RecipeError: another process has locked it.
        ToolkitError: the lock cannot be written, or the file system has no locks.
    """
    if fcntl is None:
        yield
        return
    path = home / LOCK
    try:
        file = path.open("w")
    except OSError as error:
        raise ToolkitError(
            f"{path}: cannot be opened for writing ({error.strerror}); delete it, correct the "
            "folder's permissions, or choose another folder with --runs"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise RecipeError(
                    f"{home} is in use by another process; wait for it, or choose another name"
                ) from None
            raise ToolkitError(
                f"{path}: cannot be locked ({error.strerror}); choose a folder on a file system "
                "with locks by --runs"
            ) from None
        yield
