import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import slimdet
from benchmarks.data.image_set import coco_ground_truth, read_coco
from export.bundles.packing import write_bundle
from slimdet.pictures import array_pixels, read_pictures
from tests.benchmarks.conftest import data as data
from tests.benchmarks.test_run import BOX, write_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A graph for 64 x 64 pixels that finds `BOX` of class `red` with score 0.9."""
    return write_model(tmp_path / "exported" / "model.onnx")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """32 x 64 pixels, so half as wide as the input that it is laid into at its own scale."""
    path = tmp_path / "photographs" / "one.png"
    path.parent.mkdir()
    Image.fromarray(pixels()).save(path)
    return path


def pixels() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_a_path_an_array_and_a_pil_picture_give_the_same_boxes(model: Path, picture: Path) -> None:
    with slimdet.load(model) as detector:
        single = [
            detector.predict(p) for p in (picture, str(picture), pixels(), Image.open(picture))
        ]
        together = detector.predict([picture, pixels(), Image.open(picture)])
        folder = detector.predict(picture.parent)
    assert [len(results) for results in (*single, together, folder)] == [1, 1, 1, 1, 3, 1]
    for (result,) in [*single, folder, *([one] for one in together)]:
        assert result.boxes.tolist() == [BOX]
        assert result.scores.tolist() == pytest.approx([0.9])
        assert result.labels.tolist() == [0]
        assert result.names == ["red"]
        assert (len(result), result.classes) == (1, ("red", "green"))


def test_boxes_are_pixels_of_the_picture_that_was_given(model: Path) -> None:
    twice = np.zeros((128, 128, 3), dtype=np.uint8)
    (result,) = slimdet.load(model).predict(twice)
    assert result.boxes.tolist() == [[2 * side for side in BOX]]


def test_a_picture_of_pil_is_turned_as_its_exif_says(model: Path, tmp_path: Path) -> None:
    lying = Image.new("L", (80, 40))
    exif = lying.getexif()
    exif[0x0112] = 6
    lying.save(tmp_path / "a.jpg", exif=exif)
    detector = slimdet.load(model)
    (read,), (opened,) = (
        detector.predict(source) for source in (tmp_path / "a.jpg", Image.open(tmp_path / "a.jpg"))
    )
    assert read.pixels().shape == opened.pixels().shape == (80, 40, 3)
    assert read.boxes.tolist() == opened.boxes.tolist()


def test_a_threshold_is_the_lowest_score_that_is_kept(model: Path) -> None:
    detector = slimdet.load(model)
    assert len(detector.predict(pixels(), threshold=0.95)[0]) == 0
    assert len(detector.predict(pixels(), threshold=0.85)[0]) == 1
    assert len(detector.predict(pixels(), threshold=1)[0]) == 0
    wrongs: list[Any] = [25, "0.5", float("nan")]
    for wrong in wrongs:
        with pytest.raises(slimdet.DataError, match=f"threshold {wrong!r}"):
            detector.predict(pixels(), threshold=wrong)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (np.zeros((3, 8, 8), dtype=np.uint8), "channels last"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint8), "several pictures as a list"),
        (np.full((8, 8, 3), 255.0), r"float64 with values in 255..255; expected floats in 0..1"),
        (np.full((8, 8, 3), np.nan), "nan"),
        (np.zeros((8, 8, 3), dtype=np.int64), "int64; expected uint8, uint16"),
        (np.zeros((0, 8, 3), dtype=np.uint8), "shape"),
        (np.zeros((0, 8)).view(np.matrix), "shape"),
        (Image.new("F", (8, 8)), "a PIL picture: .*floating-point"),
        (Image.new("RGB", (0, 0)), "a PIL picture of 0 x 0 pixels holds none"),
        (Image.new("L", (0, 5)), "a PIL picture of 0 x 5 pixels holds none"),
        (Image.new("RGBA", (5, 0)), "a PIL picture of 5 x 0 pixels holds none"),
        ([3], "int is not a picture"),
        (3, "int is not a picture"),
        (None, "None is not a picture"),
        (b"bytes", "bytes is not a picture"),
        ({"a.png": 1}, "dict is not a picture"),
        ("missing.png", "missing.png"),
        ("", "an empty path"),
    ],
)
def test_what_is_no_picture_is_refused(model: Path, source, said: str) -> None:
    with pytest.raises(slimdet.DataError, match=said):
        slimdet.load(model).predict(source)


def test_a_broken_or_closed_picture_of_pil_is_named(picture: Path, model: Path) -> None:
    closed = Image.open(picture)
    closed.close()
    with pytest.raises(slimdet.DataError, match=r"one\.png: a broken picture"):
        slimdet.load(model).predict(closed)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (pixels()[..., 0], np.repeat(pixels()[..., :1], 3, axis=2)),
        (pixels()[..., 0].view(np.matrix), np.repeat(pixels()[..., :1], 3, axis=2)),
        (pixels()[..., :1], np.repeat(pixels()[..., :1], 3, axis=2)),
        (pixels().astype(np.uint16) * 256 + 255, pixels()),
        (pixels() / 255, pixels()),
        ((pixels() / 255).astype(np.float16), pixels()),
        (pixels()[..., ::-1], pixels()[..., ::-1]),
        (np.dstack([pixels(), np.full((64, 64), 255, np.uint8)]), pixels()),
        (np.dstack([pixels(), np.zeros((64, 64), np.uint8)]), np.zeros((64, 64, 3))),
    ],
    ids=[
        *("grey", "matrix", "plane", "uint16", "float64", "float16", "reversed", "opaque"),
        "transparent",
    ],
)
def test_an_array_of_any_usual_kind_is_read_as_rgb(given, expected) -> None:
    found = array_pixels(given)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - expected).max() <= 0


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "I;16"]
)
def test_a_picture_of_pil_of_any_mode_is_read_as_its_file_is(mode: str) -> None:
    base = Image.fromarray(pixels())
    through = {"La": "LA", "RGBa": "RGBA", "PA": "P", "I;16": "L"}
    image = (base.convert(through[mode]) if mode in through else base).convert(mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(base.convert("L")).astype(np.uint16) * 256)
    (found,) = read_pictures(image)
    assert isinstance(found, np.ndarray)
    assert found.shape == (64, 64, 3)
    assert np.abs(found.mean() - pixels().mean()) < 3


def test_pictures_may_come_from_a_generator_and_may_be_none(model: Path, picture: Path) -> None:
    detector = slimdet.load(model)
    assert len(detector.predict(Image.open(p) for p in [picture, picture])) == 2
    assert detector.predict([]) == []


def test_a_closed_model_says_so(model: Path) -> None:
    with slimdet.load(model) as detector:
        pass
    for use in (lambda: detector.predict(pixels()), lambda: detector.evaluate("none")):
        with pytest.raises(slimdet.ExportError, match="the model is closed; load it again"):
            use()


def test_threads_below_one_are_refused(model: Path) -> None:
    with pytest.raises(slimdet.ExportError, match="threads 0: expected at least 1"):
        slimdet.load(model, threads=0)


@pytest.mark.parametrize("nothing", [None, 3, ""])
def test_what_is_no_path_is_refused(nothing) -> None:
    with pytest.raises(slimdet.ExportError, match="expected a run's folder, a bundle"):
        slimdet.load(nothing)


def test_results_are_compared_by_identity_and_shown_in_a_line(model: Path, picture: Path) -> None:
    one, other = slimdet.load(model).predict([picture, pixels()])
    assert one != other
    assert repr(one) == f"<slimdet.Result of {picture}: 1 red>"
    assert repr(other) == "<slimdet.Result of an array of 64 x 64 pixels: 1 red>"


def test_a_result_gives_one_object_after_another(model: Path) -> None:
    (result,) = slimdet.load(model).predict(pixels())
    (found,) = result
    assert (found.box.tolist(), found.label, found.name) == (BOX, 0, "red")
    assert found.score == pytest.approx(0.9)


@pytest.mark.parametrize("as_file", [True, False])
def test_a_drawn_result_differs_from_the_picture_at_the_box_alone(
    model: Path, picture: Path, as_file: bool
) -> None:
    (result,) = slimdet.load(model).predict(picture if as_file else pixels())
    drawn = np.asarray(result.draw(scores=False, line_width=1))
    assert drawn.shape == (64, 64, 3)
    left, _, right, bottom = map(int, BOX)
    assert (drawn[bottom, left + 1 : right] != pixels()[bottom, left + 1 : right]).any()
    assert (result.pixels() == pixels()).all()


@pytest.mark.slow
def test_a_result_becomes_detections_of_supervision(model: Path) -> None:
    supervision = pytest.importorskip("supervision", exc_type=ImportError)
    (result,) = slimdet.load(model).predict(pixels())
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == [BOX]
    assert found.class_id.tolist() == [0]
    assert found.confidence.tolist() == pytest.approx([0.9])
    assert found.data["class_name"].tolist() == ["red"]
    (nothing,) = slimdet.load(model).predict(pixels(), threshold=0.95)
    assert len(nothing.to_supervision()) == 0


def test_a_result_becomes_coco_results(model: Path) -> None:
    (result,) = slimdet.load(model).predict(pixels())
    (found,) = result.to_coco(41)
    left, top, right, bottom = BOX
    assert found["bbox"] == [left, top, right - left, bottom - top]
    assert (found["image_id"], found["category_id"]) == (41, 1)
    assert found["score"] == pytest.approx(0.9)


@pytest.mark.slow
def test_the_model_s_folder_and_a_bundle_of_it_open_too(model: Path, tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", [model], pixels(), name="constant")
    archive = tmp_path / "bundle.tar.gz"
    for path in (model.parent, bundle, archive):
        with slimdet.load(path) as detector:
            assert detector.predict(pixels())[0].boxes.tolist() == [BOX]
            unpacked = detector.path
    assert not unpacked.exists()  # the archive's temporary folder
    with pytest.raises(slimdet.ExportError, match="no artifact 'other', but exported"):
        slimdet.load(bundle, artifact="other")


def test_a_run_opens_as_its_student(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.lock.json").write_text('{"seed": 3}')
    with pytest.raises(slimdet.ExportError, match="has not exported a model yet"):
        slimdet.load(run)
    for name in ("seed3-student-fp32", "teacher-fp32"):
        write_model(run / "export" / name / "model.onnx")
    assert slimdet.load(run).path.parent.name == "seed3-student-fp32"
    assert slimdet.load(run, artifact="teacher-fp32").path.parent.name == "teacher-fp32"
    with pytest.raises(slimdet.ExportError, match="but seed3-student-fp32, teacher-fp32"):
        slimdet.load(run, artifact="student")


def test_what_cannot_be_opened_is_refused_with_what_can(model: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz") as archive:
        archive.add(model, "model.onnx")
    (tmp_path / "broken.tar.gz").write_bytes(b"none")
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    for name, said in {
        "other.tar.gz": "holds no bundle",
        "broken.tar.gz": "cannot be unpacked",
        "empty": "holds no model",
        "notes.txt": "is not a model; expected a run's folder, a bundle",
        "gone": "there is no such file or folder; expected",
        "gone.onnx": "no such model file",
    }.items():
        with pytest.raises(slimdet.ExportError, match=said) as caught:
            slimdet.load(tmp_path / name)
        assert name in str(caught.value)
    with pytest.raises(slimdet.ExportError, match="device 'tpu': expected one of cpu"):
        slimdet.load(model, device="tpu")
    with pytest.raises(slimdet.ExportError, match="leave it out"):
        slimdet.load(model, artifact="x")


def test_a_model_is_evaluated_on_labelled_pictures(model: Path, data: Path) -> None:
    found = slimdet.load(model).evaluate(data)
    truth = coco_ground_truth(read_coco(data))
    assert {result["image_id"] for result in found.results} == {i["id"] for i in truth["images"]}
    assert set(found.per_class) == {"red", "green"}
    assert found.values["AP"] is not None
    assert 0 < found.values["AP"] <= 1


@pytest.mark.slow
def test_loading_and_predicting_needs_no_torch(model: Path, picture: Path) -> None:
    code = (
        "import sys, slimdet\n"
        "print(slimdet.load(sys.argv[1]).predict(sys.argv[2])[0].names, 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, model, picture],
        cwd=ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "['red'] False\n"
