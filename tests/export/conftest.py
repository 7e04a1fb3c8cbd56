"""The tiny detector, exported in both batch forms for the tests that only read it."""

import shutil
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import pytest
from filelock import FileLock

from export.bundles.packing import write_bundle
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
def exported(request: pytest.FixtureRequest) -> Path:
    """Export once for as long as what exports stays the same; other workers wait and read.

    Importing the exporter and exporting take nine seconds, a tenth of all quick tests.
    """
    cache = request.config.cache
    assert cache is not None, "tests need pytest's cache provider"
    folder = cache.mkdir(f"exported-{_version_of_the_exporter()}")
    with FileLock(f"{folder}.lock"):
        for name in ("static", "dynamic"):
            if not (folder / name / "model.json").exists():  # written last
                manifest = tiny_manifest(dynamic_batch=name == "dynamic")
                export_onnx(tiny_detector(), manifest, folder / name, to_tensor(canvases(1)))
    return folder


@pytest.fixture(scope="session")
def made(static_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a whole bundle of the tiny detector, for tests to copy."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    return write_bundle(folder, [static_model], canvases(1)[0], name="tiny", threads=1)


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """Return a copy of the bundle that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def _version_of_the_exporter() -> str:
    """Return a hash of our sources that export, of the tiny detector and of the libraries."""
    found = sha256(" ".join(map(version, ("torch", "onnx", "onnxscript"))).encode())
    here = Path(__file__).resolve()
    for path in [*sorted((here.parents[2] / "export").rglob("*.py")), here.with_name("tiny.py")]:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]
