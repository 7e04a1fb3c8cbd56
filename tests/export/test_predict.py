import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from export.artifact.manifest import read_manifest, write_manifest
from export.engine import open_engine
from export.predict import main
from export.predictions import predict

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    generator = np.random.default_rng(1)
    for name, size in (("a.png", (60, 40)), ("b.jpg", (30, 50))):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / name)
    return folder


def test_detections_lie_inside_the_photograph(static_model, pictures):
    with open_engine(static_model, threads=1) as engine:
        found = predict(engine, pictures / "a.png", 0.0)
    assert len(found.scores) > 0
    assert (found.boxes >= 0).all()
    assert (found.boxes <= [60, 40, 60, 40]).all()
    assert (np.diff(found.scores) <= 0).all()


def test_pictures_are_drawn_and_listed(static_model, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    code = main(
        [str(static_model), str(pictures), "--out", str(out), "--threshold", "0.1", "--json"]
    )
    assert code == 0
    listed = json.loads((out / "predictions.json").read_text())
    assert json.loads(capsys.readouterr().out) == listed
    assert [image["drawn"] for image in listed["images"]] == ["a.jpg", "b.jpg"]
    assert [(image["width"], image["height"]) for image in listed["images"]] == [(60, 40), (30, 50)]
    first = listed["images"][0]["detections"][0]
    assert first["class"] in {"cat", "dog"}
    assert first["category_id"] == {"cat": 17, "dog": 18}[first["class"]]
    with Image.open(out / "b.jpg") as drawn:
        assert drawn.size == (30, 50)


@pytest.mark.parametrize("stated", [True, False])
def test_what_is_assumed_of_a_model_made_before_is_said(
    static_model, pictures, tmp_path, capsys, stated
):
    model = Path(shutil.copytree(static_model.parent, tmp_path / "model")) / static_model.name
    manifest = read_manifest(model.with_suffix(".json"))
    if not stated:
        before = manifest.input.model_copy(update={"preprocessing": None})
        write_manifest(manifest.model_copy(update={"input": before}), model.with_suffix(".json"))
    assert main([str(model), str(pictures / "a.png"), "--out", str(tmp_path / "out")]) == 0
    assert ("states no preprocessing" in capsys.readouterr().err) is not stated


def test_a_broken_picture_is_named_and_the_others_are_done(
    static_model, pictures, tmp_path, capsys
):
    (pictures / "b.jpg").write_bytes(b"no picture")
    files = [str(pictures / name) for name in ("b.jpg", "a.png")]
    code = main([str(static_model), *files, "--out", str(tmp_path / "out")])
    assert code == 3
    assert str(pictures / "b.jpg") in capsys.readouterr().err
    listed = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [image["file"] for image in listed["images"]] == [files[1]]
    assert len(listed["broken"]) == 1


def test_files_of_a_folder_that_are_left_out_are_counted(static_model, pictures, tmp_path, capsys):
    (pictures / "a.png").rename(pictures / "a.JFIF")
    for name in ("notes.docx", "c.heic", "._b.jpg", "._v.mp4"):
        (pictures / name).write_bytes(b"x")
    out = tmp_path / "out"
    assert main([str(static_model), str(pictures), "--out", str(out)]) == 0
    assert "2 done with" in (said := capsys.readouterr().out)
    assert "0 broken, 2 other files left out; see" in said
    listed = json.loads((out / "predictions.json").read_text())
    assert [Path(file).name for file in listed["left_out"]] == ["c.heic", "notes.docx"]


def test_pictures_of_one_name_do_not_overwrite_each_other(static_model, pictures, tmp_path):
    again = tmp_path / "again"
    again.mkdir()
    (again / "A.png").write_bytes((pictures / "a.png").read_bytes())
    out = tmp_path / "out"
    files = [str(pictures / "a.png"), str(again / "A.png")]
    assert main([str(static_model), *files, "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"a.jpg", "A_2.jpg", "predictions.json"}


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"model": "nowhere.onnx"}, 6, "no such model file"),
        ({"image": "nowhere"}, 3, "no such file"),
        ({"out": "taken/deeper"}, 1, "cannot be written to"),
    ],
)
def test_mistakes_end_with_their_code_and_one_line(
    static_model, pictures, tmp_path, capsys, change, code, said
):
    (tmp_path / "taken").write_text("a file where a folder should go")
    model = tmp_path / change["model"] if "model" in change else static_model
    image = tmp_path / change.get("image", pictures / "a.png")
    assert main([str(model), str(image), "--out", str(tmp_path / change.get("out", "out"))]) == code
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1


def test_a_folder_without_pictures_is_a_mistake(static_model, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main([str(static_model), str(tmp_path / "empty"), "--out", str(tmp_path / "o")]) == 3
    assert "no pictures in it" in capsys.readouterr().err


def test_a_score_outside_zero_to_one_is_refused(static_model, pictures, capsys):
    with pytest.raises(SystemExit) as caught:
        main([str(static_model), str(pictures), "--out", "x", "--threshold", "25"])
    assert caught.value.code == 2
    assert "not in 0..1" in capsys.readouterr().err


def test_the_command_explains_itself():
    done = subprocess.run(
        [sys.executable, "-m", "export.predict", "--help"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0
    assert "exit codes" in done.stdout
