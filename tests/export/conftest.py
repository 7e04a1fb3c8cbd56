"""One export of the tiny detector per batch form, shared by the tests that only read it."""

import os
from pathlib import Path

import pytest
from filelock import FileLock

from export.graph.to_onnx import export_onnx
from export.pictures.images import to_tensor
from tests.export.tiny import canvases, tiny_detector, tiny_manifest


@pytest.fixture(scope="session")
def static_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_once(tmp_path_factory, "static", dynamic_batch=False)


@pytest.fixture(scope="session")
def dynamic_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_once(tmp_path_factory, "dynamic", dynamic_batch=True)


def exported_once(factory: pytest.TempPathFactory, name: str, *, dynamic_batch: bool) -> Path:
    """Export in the worker that comes first; the others wait for it and read the same files."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / name
    with FileLock(f"{folder}.lock"):
        if not (folder / "model.json").exists():  # written last
            manifest = tiny_manifest(dynamic_batch=dynamic_batch)
            export_onnx(tiny_detector(), manifest, folder, to_tensor(canvases(1)))
    return folder / "model.onnx"
