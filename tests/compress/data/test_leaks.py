"""Pictures of val that are also learnt from."""

import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks.data.shapes import PlacedImages
from compress.data.config import Data, FolderConfig, ShapesConfig
from compress.data.health import Health, data_health
from compress.data.leaks import leak_warnings
from compress.data.split_settings import SplitConfig
from compress.doctor import main as doctor
from export.errors import DataError
from tests.benchmarks.data.tiny import coco, write_coco, write_coco_root
from tests.compress.smoke import write_smoke


def opened(root: Path) -> Data:
    return FolderConfig(root=root, image_size=32).open()


def health_of(root: Path, teacher: Path) -> Health:
    """Inspect a student's data and that of its teacher, both written before."""
    return data_health(opened(root), taught={"teacher": opened(teacher)})


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Data of a student and of a teacher that share no picture."""
    write_coco_root(tmp_path / "student")  # shades 90 to 93 and 190, 191
    write_coco(tmp_path / "teacher", "train", coco(5, start=500), shade=20)
    write_coco(tmp_path / "teacher", "val", coco(1, start=600), shade=40)
    return tmp_path / "student", tmp_path / "teacher"


def test_sets_without_a_common_picture_have_no_leak_though_files_are_of_equal_size(
    pair: tuple[Path, Path],
) -> None:
    sizes = {file.stat().st_size for root in pair for file in (root / "images").iterdir()}
    assert len(sizes) < 12
    assert health_of(*pair).leaks == {}


def test_a_picture_of_val_that_a_teacher_learnt_is_a_leak_whatever_its_name(
    pair: tuple[Path, Path],
) -> None:
    student, teacher = pair
    shutil.copy(student / "images/102.png", teacher / "images/503.png")
    health = health_of(student, teacher)
    assert health.leaks == {"teacher train and val": ("102.png",)}
    assert (
        "1 picture of val is also in teacher train (102.png): AP on val of teacher, and of "
        "students distilled from it, will be too high"
    ) in health.warnings


def test_pictures_that_a_teacher_is_measured_on_alone_are_no_leak(pair: tuple[Path, Path]) -> None:
    student, teacher = pair
    shutil.copy(student / "images/102.png", teacher / "images/600.png")
    assert health_of(student, teacher).leaks == {}


def test_a_teacher_that_learns_the_students_val_from_the_same_files_or_links_leaks(
    pair: tuple[Path, Path],
) -> None:
    student, teacher = pair
    swapped = FolderConfig(
        root=student,
        image_size=32,
        train=SplitConfig(split="val"),
        val=SplitConfig(split="train"),
    ).open()
    found = data_health(opened(student), taught={"teacher": swapped})
    assert found.leaks == {"teacher train and val": ("101.png", "102.png")}
    (teacher / "images/501.png").unlink()
    (teacher / "images/501.png").symlink_to(student / "images/101.png")
    assert health_of(student, teacher).leaks == {"teacher train and val": ("101.png",)}


def test_a_file_whose_size_no_other_has_is_not_read(pair: tuple[Path, Path]) -> None:
    student, teacher = pair
    own, others = opened(student), opened(teacher)
    file = teacher / "images/500.png"
    file.unlink()
    file.mkdir()  # has a size, and cannot be read
    assert data_health(own, taught={"teacher": others}).leaks == {}
    (student / "images/101.png").unlink()
    (student / "images/101.png").mkdir()
    with pytest.raises(DataError, match=r"1 picture file cannot be read: .*/images/101\.png"):
        data_health(own, taught={"teacher": others})


def test_names_of_augmented_copies_are_compared_too(pair: tuple[Path, Path]) -> None:
    student, teacher = pair
    for root, split, mark in ((student, "val", "a" * 32), (teacher, "train", "b" * 32)):
        document = coco(3, start=700)
        for entry, name in zip(document["images"], ("dog", "cat", split), strict=True):
            entry["file_name"] = f"{name}_jpg.rf.{mark}.png"
        write_coco(root, split, document, shade=10 if split == "val" else 60)
    health = health_of(student, teacher)
    copies = tuple(f"{name}_jpg.rf.{'a' * 32}.png" for name in ("cat", "dog"))
    assert (health.leaks, health.alike) == ({}, {"teacher train and val": copies})
    (said,) = leak_warnings({}, health.alike)
    assert said in health.warnings
    assert said.startswith("2 pictures of val have names that Roboflow gives to copies of a photog")
    assert "AP on val of teacher, and of students distilled from it, will be too high" in said
    own = data_health(opened(student)).alike
    assert own == {}  # cat and dog are in val alone


def test_drawn_pictures_of_a_teacher_are_compared_by_name_and_none_is_placed() -> None:
    def drawn(split: str, seed: int) -> Data:
        train = SplitConfig(split=split, count=3000)
        return ShapesConfig(type="shapes", image_size=64, seed=seed, train=train).open()

    student = drawn("train", 0)
    for teacher, shared in ((drawn("val", 0), 500), (drawn("val", 1), 0), (drawn("train", 0), 0)):
        images = teacher.train.images
        assert isinstance(images, PlacedImages)
        leaks = data_health(student, taught={"teacher": teacher}).leaks
        assert len(leaks.get("teacher train and val", ())) == shared
        assert len(vars(images)["_placed"]) <= 1  # the first alone, to see that there are objects


def test_the_doctor_names_pictures_of_val_that_are_learnt_from_without_labels_or_by_a_teacher(
    pair: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    student, teacher = pair
    shutil.copy(student / "images/102.png", teacher / "images/503.png")
    shutil.copytree(student / "images", tmp_path / "footage")
    recipe = write_smoke(tmp_path)
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    folder = {"type": "folder", "image_size": 64}
    footage = {"path": str(tmp_path / "footage")}
    content["data"] = {**folder, "root": str(student), "unlabeled": footage}
    content["teacher"]["data"] = {**folder, "root": str(teacher)}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.setattr("compress.doctor.free_bytes", lambda _: 60 * 10**9)
    assert doctor([str(recipe), "--runs", str(tmp_path / "runs")]) == 0
    said = capsys.readouterr().out
    assert "2 pictures of val are also in unlabeled (101.png, 102.png): AP on val will be" in said
    assert "1 picture of val is also in teacher train (102.png): AP on val of teacher" in said
