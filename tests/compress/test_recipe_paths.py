"""Paths in a recipe: home folders, and names that no file system holds."""

from pathlib import Path

import pytest

from compress.run import main
from tests.compress.smoke import write_smoke

LONG, DEEP = "a" * 300, "/".join(["b" * 200] * 30)
KEYS = (
    "data={{type: folder, root: {}, image_size: 64}}",
    "data={{type: folder, root: here, image_size: 64, val: {{path: {}}}}}",
    "data={{type: folder, root: here, image_size: 64, train: {{images: {}}}}}",
    "data={{type: folder, root: here, image_size: 64, unlabeled: {{path: {}}}}}",
    "teacher.data={{type: folder, root: {}, image_size: 64}}",
    "student.weights={}",
    "student.backbone_weights={}",
    "gates={{reference: {}, max_ap_drop: 1}}",
)


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str) -> str:
    command = [str(write_smoke(tmp_path)), "--check", "--runs", str(tmp_path / "r"), override]
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert not (tmp_path / "r").exists()
    return line


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    ("place", "said"),
    [
        (LONG, "a path of 300 bytes with a name of 300 is too long for the file system"),
        (DEEP, "a path of 6029 bytes with a name of 200 is too long for the file system"),
        ("~nobody-here/x", "the home folder that ~ stands for is not known; write the whole path"),
    ],
    ids=["long", "deep", "home"],
)
def test_a_path_that_cannot_exist_is_one_mistake_of_its_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, place: str, said: str
) -> None:
    assert said in refused(tmp_path, capsys, key.format(place))


def test_a_home_folder_is_found_for_every_kind_of_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for key in (
        "student.weights={}",
        "student.backbone_weights={}",
        "gates={{reference: {}, max_ap_drop: 1}}",
    ):
        assert str(tmp_path / "home" / "x") in refused(tmp_path, capsys, key.format("~/x"))
