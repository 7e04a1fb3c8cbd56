"""Run a recipe from Python."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from export.errors import ExportError, RecipeError
from export.optional import require
from slimdet.arguments import a_path, a_truth_value, a_word, texts
from slimdet.loading import load
from slimdet.model import Model


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: the run's folder.
    """

    folder: Path

    def __post_init__(self) -> None:
        """Also take the folder as text."""
        object.__setattr__(self, "folder", a_path(self.folder, "folder", ExportError))

    @cached_property
    def report(self) -> dict[str, Any]:
        """The content of `report/report.json`.

        Raises:
            ExportError: the run is not finished, or its report is damaged.
        """
        file = self.folder / "report" / "report.json"
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ExportError(f"{file}: cannot be read ({error}); finish the run") from None
        return found

    @property
    def html(self) -> Path:
        """Path of the HTML report."""
        return self.folder / "report" / "report.html"

    def load(
        self, artifact: str | None = None, *, device: str = "cpu", threads: int | None = None
    ) -> Model:
        """Open an artifact of the run, by default the student's FP32 ONNX file.

        Args and errors are those of `slimdet.load`.
        """
        return load(self.folder, artifact=artifact, device=device, threads=threads)


def run(
    recipe: str | PathLike[str] | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    runs: str | PathLike[str] = "runs",
    device: str = "auto",
    quiet: bool = False,
) -> Run:
    """Run a recipe from data to report; an interrupted run resumes.

    Call it under `if __name__ == "__main__":` in a script: latency is measured in processes that
    import the script again.

    Args:
        recipe: path of a YAML file, or the same settings as nested dicts and lists.
        overrides: settings that override the recipe's, each `key=value`.
        runs: parent of the run folder.
        device: auto, cpu, cuda or cuda:N.
        quiet: write nothing to stderr.

    Raises:
        RecipeError: the recipe is wrong; all mistakes at once, each with its key, and its line in
            a file; or an argument is not valid.
        DataError: the data cannot be used.
        MissingDependencyError: a package or weights are missing.
        ToolkitError: training diverged, an export failed, or the disk is full.
    """
    if not isinstance(recipe, Mapping):
        recipe = a_path(recipe, "recipe", RecipeError, "expected a recipe's path or its settings")
    changes = texts(overrides, "overrides", RecipeError, "train.epochs=1")
    folder = a_path(runs, "runs", RecipeError, "expected a folder")
    a_word(device, "device", RecipeError, expected="auto, cpu, cuda or cuda:N")
    a_truth_value(quiet, "quiet", RecipeError)
    for package in ("torch", "torchvision"):
        require(package, extra="train", purpose="Running a recipe")
    from compress.console import Console
    from compress.pipeline import run as carry_out
    from compress.recipe import load_recipe, read_recipe

    if isinstance(recipe, Mapping):
        settings, source = read_recipe(recipe, changes)
    else:
        settings, source = load_recipe(recipe, changes)
    report = carry_out(settings, source, folder, device, Console(quiet=quiet))
    return Run(report.parent)
