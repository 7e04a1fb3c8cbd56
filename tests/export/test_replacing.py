"""A bundle replaces an older bundle and nothing else."""

import json
import shutil
from pathlib import Path

import pytest

from export.bundle import main
from export.bundles.packing import write_bundle
from export.bundles.replacing import require_replaceable
from export.errors import ExportError
from tests.export.tiny import canvases


@pytest.mark.parametrize(
    "name", ["thesis.txt", "models/mine/model.onnx", "models/static/notes.txt", "__pycache__/x.pyc"]
)
def test_a_bundle_with_a_file_that_it_does_not_list_is_kept(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_text("precious")
    with pytest.raises(ExportError, match=f"{bundle / name}: not a file of the bundle"):
        require_replaceable(bundle)


def test_a_link_to_a_folder_in_a_bundle_is_a_file_that_it_does_not_list(bundle: Path) -> None:
    (bundle / "pictures").symlink_to(bundle.parent)
    with pytest.raises(ExportError, match="pictures: not a file of the bundle"):
        require_replaceable(bundle)


def test_a_folder_is_no_bundle_because_of_the_name_of_a_file(
    tmp_path: Path, static_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "bundle.json").write_text("x")
    (mine / "thesis.txt").write_text("precious")
    arguments = [str(static_model), "--golden", str(tmp_path / "p.png"), "--out", str(mine)]
    assert main(arguments) == 6
    assert "no bundle; choose another folder" in capsys.readouterr().err
    assert {path.name for path in mine.iterdir()} == {"bundle.json", "thesis.txt"}


def test_what_verifying_and_building_leave_may_be_replaced(bundle: Path) -> None:
    side = next(bundle.glob("models/*/model.onnx")).with_name("model.engine")
    pyc = bundle / "__pycache__" / "bundle_content.cpython-311.pyc"
    cache = side.with_name(".onnxruntime-tensorrt") / "x.timing"
    for path in (side, pyc, cache):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"made")
    require_replaceable(bundle)


def test_a_bundle_is_not_replaced_by_one_of_its_own_files(bundle: Path) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    model = bundle / content["artifacts"][0]["file"]
    with pytest.raises(ExportError, match="which the new bundle would replace"):
        write_bundle(bundle, [model], canvases(1)[0], name="tiny")
    with pytest.raises(ExportError, match=r"photograph\.png: lies in"):
        require_replaceable(bundle, [bundle / "golden" / "photograph.png"])
    assert model.is_file()


def test_an_archive_of_the_name_is_replaced_only_if_it_is_of_the_bundle(
    bundle: Path, made: Path
) -> None:
    archive = bundle.with_name("bundle.tar.gz")
    shutil.copyfile(made.with_name("bundle.tar.gz"), archive)
    require_replaceable(bundle)
    archive.write_bytes(b"precious")
    with pytest.raises(ExportError, match="is not the packed bundle of bundle"):
        require_replaceable(bundle)


def test_a_folder_beside_the_bundle_is_kept(tmp_path: Path) -> None:
    other = tmp_path / "b.partial"
    other.mkdir()
    (other / "thesis.txt").write_text("precious")
    with pytest.raises(ExportError, match="no artifacts to pack"):
        write_bundle(tmp_path / "b", [], canvases(1)[0], name="x")
    assert [path.name for path in tmp_path.iterdir()] == ["b.partial"]
    assert (other / "thesis.txt").is_file()
