"""The base of every settings class: frozen, strict, closed to unknown keys; and bounded numbers."""

import errno
import os
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_Place = TypeVar("_Place", Path, str)
_Item = TypeVar("_Item")

# Bounds that no training needs to exceed; a setting beyond them is a slip of the keyboard. A
# message states the bound.
PositiveInt = Annotated[int, Field(ge=1, le=1_000_000)]
NonNegativeInt = Annotated[int, Field(ge=0, le=1_000_000)]
PositiveFloat = Annotated[float, Field(ge=1e-12, le=1e9)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e9)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(ge=1e-6, le=1)]
Levels = Annotated[int, Field(ge=1, le=8)]  # of a pyramid
MOST_SEED = 2**32 - 1
Seed = Annotated[int, Field(ge=0, le=MOST_SEED)]
Channels = Annotated[int, Field(ge=1, le=4096)]  # of a layer
Cells = Annotated[int, Field(ge=1, le=256)]  # of a map that is pooled, per side
MOST_THREADS = 1024  # a runtime takes minutes to start more
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS)]
Batch = Annotated[int, Field(ge=1, le=65_536)]  # pictures
Temperature = Annotated[float, Field(ge=1e-3, le=1000)]  # of a softmax
Seconds = Annotated[float, Field(ge=1e-3, le=31_536_000)]  # a year


class ClashError(ValueError):
    """A rule over several settings is broken.

    Attributes:
        paths: settings that the rule is over, the one to change first. A path starts at the
            setting whose validator found the mistake; `..` leads to the section around.
    """

    def __init__(self, problem: str, *paths: str | tuple[str | int, ...]) -> None:
        super().__init__(problem)
        self.paths = [(path,) if isinstance(path, str) else path for path in paths]


def _each_once(values: tuple[_Item, ...]) -> tuple[_Item, ...]:
    twice = next((one for one in values if values.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} is there twice; name each once")
    return values


EACH_ONCE = AfterValidator(_each_once)  # of a list: nothing stands in it twice


def expanded(place: _Place) -> _Place:
    """Return a path of a recipe with the home folder in place of `~`.

    Raises:
        ValueError: there is no such home folder, or no file system holds so long a name.
    """
    full = os.path.expanduser(place)  # noqa: PTH111 - which takes text and paths alike
    if str(full).startswith("~"):
        raise ValueError("the home folder that ~ stands for is not known; write the whole path")
    problem = too_long(full)
    if problem is not None:
        raise ValueError(problem)
    return type(place)(full)


def too_long(place: Path | str) -> str | None:
    """Return why no file can have this path: it is too long; None where one can."""
    try:
        os.lstat(place)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            longest = max(len(os.fsencode(part)) for part in Path(place).parts)
            return (
                f"a path of {len(os.fsencode(place))} bytes with a name of {longest} is too long "
                "for the file system; most hold 255 a name and 4095 a path"
            )
    except ValueError:  # NUL, or a character that no file name has
        return None  # there is no such file, which opening it says
    return None


def _checked(place: Path) -> Path:
    expanded(place)
    return place


# A file or folder that is named in a recipe; the other kind is kept as it was written.
LocalPath = Annotated[Path, AfterValidator(expanded)]
WrittenPath = Annotated[Path, AfterValidator(_checked)]
LocalFile = Annotated[str, AfterValidator(expanded)]  # a path, or a word with a meaning of its own


class Section(BaseModel):
    """One section of a recipe or manifest.

    Validate with `model_validate_json`: strict JSON still takes a list for a tuple and a string
    for a path, while `"12"` for a number stays a mistake.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
