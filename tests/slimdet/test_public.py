import subprocess
import sys
from pathlib import Path

import pytest

import slimdet

ROOT = Path(__file__).resolve().parents[2]


def test_the_public_names_are_these() -> None:
    assert set(slimdet.__all__) == {
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
    }


def test_every_public_name_is_there_and_described() -> None:
    for name in set(slimdet.__all__) - {"__version__"}:
        assert getattr(slimdet, name).__doc__, name
    assert dir(slimdet) == sorted(slimdet.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        slimdet.train  # noqa: B018


@pytest.mark.slow
def test_importing_slimdet_loads_nothing_else_and_loading_models_no_torch() -> None:
    code = (
        "import sys, slimdet\n"
        "light = {'numpy', 'pydantic', 'PIL', 'export', 'benchmarks', 'compress'}\n"
        "print(sorted(light & sys.modules.keys()))\n"
        "slimdet.load, slimdet.Model, slimdet.run\n"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'matplotlib'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["[]", "[]"]
