"""`predict` replaces what it wrote before and no other file."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.pictures.video import MARK
from export.predict import main


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.png"):
        Image.fromarray(pixels).save(folder / name)
    return folder


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main([str(one) for one in arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize("out", ["pictures", "link"])
def test_a_picture_to_look_at_is_never_drawn_over(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "link").symlink_to(pictures)
    before = (pictures / "a.jpg").read_bytes()
    said = refused(capsys, "no.onnx", pictures, "--out", tmp_path / out)  # before it is loaded
    assert f"{tmp_path / out / 'a.jpg'}: is one of the pictures to look at" in said
    assert (pictures / "a.jpg").read_bytes() == before
    assert len(list(pictures.iterdir())) == 2


@pytest.mark.parametrize("name", ["a.jpg", "b.jpg", "predictions.json"])
def test_a_file_of_another_is_not_replaced(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"images": [], "mine": 1}')
    said = refused(capsys, "no.onnx", pictures, "--out", out)
    assert f"{out / name}: is there, was not written by predict" in said
    assert (out / name).read_text() == '{"images": [], "mine": 1}'


@pytest.mark.slow
def test_results_of_earlier_calls_are_replaced_even_of_other_pictures(
    static_model: Path, pictures: Path, tmp_path: Path
) -> None:
    out = str(tmp_path / "out")
    for name in ("a.jpg", "b.png", "a.jpg"):
        assert main([str(static_model), str(pictures / name), "--out", out]) == 0
    (tmp_path / "out" / "predictions.json").unlink()  # as after a call that was interrupted
    assert main([str(static_model), str(pictures), "--out", out]) == 0


def test_a_video_that_was_drawn_is_known_by_its_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = tmp_path / "v.mp4", tmp_path / "out"
    video.write_bytes(b"frames")
    out.mkdir()
    shutil.copyfile(video, out / "v.mp4")
    assert "v.mp4: is there" in refused(capsys, "no.onnx", video, "--out", out)
    with (out / "v.mp4").open("ab") as file:
        file.write(struct.pack(">I4s", 8 + len(MARK), b"free") + MARK)
    assert main(["no.onnx", str(video), "--out", str(out)]) == 6  # there is no such model
