"""Python API of slimdet: load and run detectors, run recipes, build artifacts.

    import slimdet

    model = slimdet.load("runs/quickstart")          # or model.onnx, a bundle, model.safetensors
    for result in model.predict("photographs/"):
        print(result.path, result.names, result.scores, result.boxes)
        result.draw().save("seen.jpg")

    run = slimdet.run("recipe.yaml", overrides=["train.epochs=1"])
    print(run.report["gain"], run.load().evaluate("data/bccd").values["AP"])

Names are imported when they are first used: running ONNX files needs no torch.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from _slimdet_packages import require_own

if TYPE_CHECKING:
    from export.errors import DataError as DataError
    from export.errors import ExportError as ExportError
    from export.errors import MissingDependencyError as MissingDependencyError
    from export.errors import RecipeError as RecipeError
    from export.errors import ToolkitError as ToolkitError
    from slimdet.building import export as export
    from slimdet.loading import load as load
    from slimdet.model import Evaluation as Evaluation
    from slimdet.model import Model as Model
    from slimdet.result import Result as Result
    from slimdet.running import Run as Run
    from slimdet.running import run as run

__version__ = "0.1.0"

_PLACES = {
    "load": "slimdet.loading",
    "export": "slimdet.building",
    "Model": "slimdet.model",
    "Evaluation": "slimdet.model",
    "Result": "slimdet.result",
    "run": "slimdet.running",
    "Run": "slimdet.running",
    "ToolkitError": "export.errors",
    "RecipeError": "export.errors",
    "DataError": "export.errors",
    "MissingDependencyError": "export.errors",
    "ExportError": "export.errors",
}

__all__ = [
    "DataError",
    "Evaluation",
    "ExportError",
    "MissingDependencyError",
    "Model",
    "RecipeError",
    "Result",
    "Run",
    "ToolkitError",
    "__version__",
    "export",
    "load",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _PLACES:
        module = sys.modules[__name__]  # by which Python suggests the nearest name
        raise AttributeError(f"module 'slimdet' has no attribute {name!r}", name=name, obj=module)
    require_own("export", "benchmarks", "compress")
    found = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
