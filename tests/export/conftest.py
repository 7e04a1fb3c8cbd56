"""One export of the tiny detector per batch form, shared by the tests that only read it."""

from pathlib import Path

import pytest

from export.graph.to_onnx import export_onnx
from export.pictures.images import to_tensor
from tests.export.tiny import canvases, tiny_detector, tiny_manifest


@pytest.fixture(scope="session")
def static_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static")
    return export_onnx(tiny_detector(), tiny_manifest(), folder, to_tensor(canvases(1)))


@pytest.fixture(scope="session")
def dynamic_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dynamic")
    manifest = tiny_manifest(dynamic_batch=True)
    return export_onnx(tiny_detector(), manifest, folder, to_tensor(canvases(1)))
