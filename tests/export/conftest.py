"""The tiny detector, exported in both batch forms for the tests that only read it."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from export.graph.to_onnx import export_onnx
from export.pictures.images import to_tensor
from tests.export.tiny import canvases, tiny_detector, tiny_manifest


@pytest.fixture(scope="session")
def static_model(exported: Path) -> Path:
    return exported / "static" / "model.onnx"


@pytest.fixture(scope="session")
def dynamic_model(exported: Path) -> Path:
    return exported / "dynamic" / "model.onnx"


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export in the worker that comes first; the others wait for it and read the same files.

    Importing the exporter takes longer than exporting, so one worker makes both models.
    """
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exported"
    with FileLock(f"{folder}.lock"):
        for name in ("static", "dynamic"):
            if not (folder / name / "model.json").exists():  # written last
                manifest = tiny_manifest(dynamic_batch=name == "dynamic")
                export_onnx(tiny_detector(), manifest, folder / name, to_tensor(canvases(1)))
    return folder
