import importlib
import io
import zipfile
from importlib import metadata
from pathlib import Path

from export.bundles.wheel import wheel, wheel_name


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_every_module_the_commands_and_the_dependencies():
    made = wheel()
    assert made is not None
    name, content = made
    version = metadata.version("slimdet")
    assert name == wheel_name(version)
    found = members(content)
    for module in ("slimdet.__main__", "export.predict", "benchmarks.record", "_slimdet_packages"):
        loaded = importlib.import_module(module)
        path = module.replace(".", "/") + ".py"
        assert found[path] == Path(loaded.__file__ or "").read_bytes()
    info = f"slimdet-{version}.dist-info"
    assert b"Requires-Dist: numpy" in found[f"{info}/METADATA"]
    assert b"slimdet = slimdet.__main__:main" in found[f"{info}/entry_points.txt"]
    listed = found[f"{info}/RECORD"].decode().splitlines()
    assert len(listed) == len(found)
    assert not [name for name in found if "__pycache__" in name or name.endswith(".pyc")]


def test_the_same_version_gives_the_same_bytes():
    assert wheel() == wheel()
