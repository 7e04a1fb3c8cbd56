"""Several teachers, teachers of other classes, and a classifier: stage by stage, to the report."""

import json
import time
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.checks import wanted_classifier
from compress.distillation.distiller import Distiller
from compress.parts.transfer import sized_by_classes
from compress.parts.weights import inherit, save_weights
from compress.run import main
from compress.stages.classifier import accuracy, classifier_folder, load_classifier
from compress.stages.fit import category_ids
from compress.stages.model_name import ModelName
from compress.stages.opened import Run
from compress.stages.students import StudentTraining
from compress.stages.teachers import load_teacher, teacher_folder
from export.errors import RecipeError
from tests.compress.smoke import assert_refused, opened_smoke, write_smoke
from tests.processes import start_run

SECOND = (
    "teacher=[{detector: {type: gfl, backbone: {type: slim_resnet, widths: [16, 16, 16, 16]}, "
    "width: 16, head_depth: 1, reg_max: 4, strides: [8, 16], norm: group}, train: &t {epochs: 1, "
    "batch: 4, evaluations: 1, amp: 'off', checkpoint_every_s: 0.001}}, {detector: {type: gfl, "
    "backbone: {type: slim_resnet, widths: [16, 16, 16, 32]}, width: 32, head_depth: 1, "
    "reg_max: 4, strides: [8, 16], norm: group}, train: *t}]"
)
# a class more than the student's, in an order of its own
HARD = (
    "teacher.1.data={type: shapes, image_size: 64, difficulty: hard, train: {count: 8}, "
    "val: {count: 4}}"
)
DICOD = (
    "distill=[{type: dicod, weight: auto, window: 2, classifier: {backbone: {type: slim_resnet, "
    "widths: [16, 16, 16, 16]}, epochs: 2, batch: 4, crop: 32}}]"
)


def carry_out(folder: Path, *overrides: str) -> str:
    """Run the recipe in `folder`; return what it says."""
    said = StringIO()
    with redirect_stderr(said):
        assert main([str(write_smoke(folder)), "--runs", str(folder), *overrides]) == 0
    return said.getvalue()


def report_of(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "report" / "report.json").read_text())
    return found


TEACHING = (SECOND, HARD, "inherit=neck+head")


@pytest.fixture(scope="module")
def two_teachers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    said = carry_out(folder, *TEACHING, "baseline.equal_time=true")
    assert said.count("inherited from the teacher:") == 3  # first stages and equal time
    return folder / "smoke"


@pytest.mark.slow
def test_the_student_learns_from_each_teacher_and_the_baseline_restarts_as_often(
    two_teachers: Path,
) -> None:
    home = two_teachers
    records = {
        folder.name: json.loads((folder / "training.json").read_text())
        for folder in (home / "models").iterdir()
        if folder.is_dir()  # not the seals beside them
    }
    stages = ["seed0-student-stage1", "seed0-student"]
    plain = ["seed0-baseline-stage1", "seed0-baseline"]
    longer = "seed0-baseline_equal_time"
    assert set(records) == {"teacher", "teacher2", *stages, *plain, longer}
    assert [records[name]["steps"] for name in (*stages, *plain)] == [4] * 4
    assert len({records[name]["teacher_sha256"] for name in stages}) == 2
    assert all(records[name]["teacher_sha256"] is None for name in plain)
    ratio = json.loads((home / "equal_time.json").read_text())
    assert [part["name"] for part in ratio["parts"]] == stages
    assert records[longer]["steps"] == round(8 * ratio["ratio"])  # 4 steps under each teacher


@pytest.mark.slow
def test_the_report_has_a_row_for_every_teacher_and_none_for_a_stage(
    two_teachers: Path,
) -> None:
    report = report_of(two_teachers)
    assert [(row["model"], row["name"], row["backend"]) for row in report["rows"]] == [
        ("teacher", "teacher", "torch"),
        ("teacher", "teacher", "onnxruntime"),
        ("teacher", "teacher2", "torch"),
        ("teacher", "teacher2", "onnxruntime"),
        ("baseline", "seed0-baseline", "torch"),
        ("baseline", "seed0-baseline", "onnxruntime"),
        ("student", "seed0-student", "torch"),
        ("student", "seed0-student", "onnxruntime"),
        ("baseline_equal_time", "seed0-baseline_equal_time", "onnxruntime"),
    ]
    assert report["training"]["seed0-student-stage1"]["model"] == "student stage 1"
    assert {speed["reference"] for speed in report["speed"]} == {"teacher2 onnxruntime fp32"}
    assert "| teacher 2 |" in (two_teachers / "report" / "report.md").read_text()


@pytest.mark.slow
def test_a_teacher_of_more_classes_is_measured_and_exported_by_name(
    two_teachers: Path,
) -> None:
    home = two_teachers
    manifest = json.loads((home / "export" / "teacher2-fp32" / "model.json").read_text())
    truth = json.loads((home / "report" / "ground_truth.json").read_text())
    known = {category["name"]: category["id"] for category in truth["categories"]}
    assert set(known) < set(manifest["classes"])
    for name, number in zip(manifest["classes"], manifest["category_ids"], strict=True):
        assert known.get(name, number) == number
        assert (number in known.values()) == (name in known)
    assert report_of(home)["rows"][2]["ap"]["AP"] is not None


@pytest.mark.slow
def test_a_run_of_two_teachers_that_is_cut_ends_as_one_that_was_not(
    two_teachers: Path, tmp_path: Path
) -> None:
    whole = two_teachers
    command = [str(write_smoke(tmp_path)), *TEACHING, "--runs", str(tmp_path)]
    home = tmp_path / "smoke"
    for reached in (
        home / "training" / "teacher2" / "last.pt",
        home / "training" / "seed0-student-stage1" / "last.pt",
        home / "training" / "seed0-student" / "last.pt",
        home / "models" / "seed0-student",
    ):
        process = start_run(command, tmp_path / "said.txt")
        while not reached.exists() and process.is_alive():
            time.sleep(0.01)
        process.kill()
        process.join()
        assert reached.exists()
    for name in ("teacher2", "seed0-baseline", "seed0-student-stage1", "seed0-student"):
        files = [one / "models" / name / "model.safetensors" for one in (whole, home)]
        # the tensors alone: the metadata holds the recipe, and it the folder of its data
        first, second = (load_file(path) for path in files)
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), name


@pytest.mark.slow
def test_a_later_stage_begins_where_the_one_before_ended(tmp_path: Path) -> None:
    run = opened_smoke(tmp_path, SECOND, "train.steps=1", "train.lr=1e-9", "distill=[]")
    before = run.build_student(seed=7).state_dict()
    folder = run.home / "models" / "seed0-student-stage1"
    folder.mkdir(parents=True)
    save_weights(before, folder / "model.safetensors")
    training = StudentTraining(run, [(t, t.build(0)) for t in run.teachers], None)
    folders = training._stages(0, "student", lambda student, _: Distiller(student))
    after = load_file(folders[ModelName(0, "student")] / "model.safetensors")
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_check_plans_every_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(write_smoke(tmp_path))
    command = [recipe, "--check", "--json", "--runs", str(tmp_path / "r"), SECOND, DICOD]
    assert main([*command, "baseline.equal_time=true"]) == 0
    said = json.loads(capsys.readouterr().out)["check"]
    assert [stage["name"] for stage in said["stages"]] == [
        "teacher",
        "teacher2",
        "seed0-baseline-stage1",
        "seed0-baseline",
        "seed0-student-stage1",
        "seed0-student",
        "seed0-baseline_equal_time",
    ]
    assert said["notes"][0] == "classifier: 4 steps on object crops before the students"


@pytest.mark.parametrize(
    "mistake",
    [
        (
            [SECOND, "teacher.1.data={type: shapes, image_size: 96}"],
            2,
            "teacher[1].data.image_size",
        ),
        ([SECOND, "teacher.1.train.batch=64"], 3, "64"),
        ([SECOND, "teacher.1.train.amp=fp16"], 2, "teacher[1].train.amp: fp16"),
        ([SECOND, "teacher.1.detector.backbone_weights=/no/such.pt"], 2, "teacher.1.detector.back"),
        ([SECOND, "teacher.1.detector.strides=[32]"], 2, "): teacher2: student gfl has"),
        ([DICOD, "distill.0.classifier.batch=64"], 3, "64"),
        ([DICOD, "distill.0.classifier.backbone_weights=/no/such.pt"], 2, "/no/such.pt"),
        (["distill=[{type: dicod}, {type: dicod, classifier: {crop: 64}}]"], 2, "distill[1].class"),
    ],
)
def test_a_mistake_is_found_before_anything_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: tuple[list[str], int, str]
) -> None:
    assert_refused(tmp_path, capsys, *mistake)


# -- teachers of other classes -----------------------------------------------------------------


def test_a_class_that_the_data_lacks_gets_an_id_that_it_has_not(tmp_path: Path) -> None:
    data = opened_smoke(tmp_path).data
    first, last = data.classes[0], data.classes[-1]
    ids = category_ids((last, "elephant", first, "giraffe"), data)
    known = dict(zip(data.classes, data.category_ids, strict=True))
    assert (ids[0], ids[2]) == (known[last], known[first])
    assert len({*ids, *data.category_ids}) == len(data.category_ids) + 2


@pytest.mark.slow
def test_inheriting_leaves_rows_of_other_classes_alone(tmp_path: Path) -> None:
    run = opened_smoke(
        tmp_path,
        "inherit=neck+head",
        "teacher={detector: {type: gfl, backbone: resnet18, weights: x.pt}, "
        "classes: [square, disk, triangle, star, cross, ring]}",
    )
    (teacher,) = run.teachers
    assert teacher.classes != run.data.classes
    training = StudentTraining(run, [(teacher, teacher.build(0))], None)
    skip = sized_by_classes(run.build_student(0), training._rebuilt)
    assert skip == {"head.class_logits.weight", "head.class_logits.bias"}
    student, source = run.build_student(0), run.build_student(1)
    report = inherit(student, source, skip)
    assert skip <= set(report.skipped)
    assert "head.box_logits.weight" in report.copied


def test_inheriting_from_a_neck_and_head_that_are_others_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs, key = str(write_smoke(tmp_path)), str(tmp_path / "r"), "inherit=neck+head"
    width = "teacher.detector.width=32"
    assert main([path, width, key, "--check", "--runs", runs]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: command line: {key} and {width}: inherit: neck+head, and ")
    assert "(gfl, channels [16, 16]) have the name and shape of the teacher's" in said
    assert said.count("\n") == 1
    assert main([path, key, "--check", "--runs", runs]) == 0


# -- weights that match in part ------------------------------------------------------------------


def half_of_a_teacher(tmp_path: Path, *overrides: str, quiet: bool = True) -> Run:
    (teacher,) = opened_smoke(tmp_path).teachers
    state = teacher.build(1).state_dict()
    kept = {name: value.clone() for name, value in state.items() if "head" not in name}
    save_file({**kept, "extra": torch.zeros(1)}, tmp_path / "half.safetensors")
    weights = f"teacher.detector.weights={tmp_path / 'half.safetensors'}"
    return opened_smoke(tmp_path, "teacher.train=null", weights, *overrides, quiet=quiet)


def test_a_teachers_file_that_matches_in_part_is_refused(tmp_path: Path) -> None:
    run = half_of_a_teacher(tmp_path)
    with pytest.raises(RecipeError, match=r"missing \(head\..*1 unexpected \(extra\)"):
        teacher_folder(run, run.teachers[0])


def test_unless_the_recipe_allows_it_and_then_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = half_of_a_teacher(tmp_path, "teacher.strict=false", quiet=False)
    (teacher,) = run.teachers
    folder = teacher_folder(run, teacher)
    assert "WARNING: weights from" in capsys.readouterr().err
    (said,) = json.loads((folder / "training.json").read_text())["loaded_in_part"]
    assert "1 unexpected (extra)" in said
    loaded = load_teacher(run, teacher, folder).state_dict()
    source, fresh = teacher.build(1).state_dict(), teacher.build(run.recipe.seed).state_dict()
    for name, value in loaded.items():
        assert torch.equal(value, (fresh if "head" in name else source)[name]), name


# -- a classifier of crops -----------------------------------------------------------------------


@pytest.mark.slow
def test_a_classifier_teaches_beside_a_teacher_that_lacks_classes(tmp_path: Path) -> None:
    said = carry_out(
        tmp_path,
        DICOD,
        "data.difficulty=hard",
        "teacher.data={type: shapes, image_size: 64, train: {count: 8}, val: {count: 4}}",
        "baseline.enabled=false",
    )
    assert "WARNING: teacher does not know " in said
    home = tmp_path / "smoke"
    report = report_of(home)
    notes = "\n".join(report["notes"])
    assert "also distilled from a classifier of object crops" in notes
    assert "Loss weights chosen by `weight: auto` for seed0-student" in notes
    assert "Distillation terms of seed0-student relative to the task loss" in notes
    student = json.loads((home / "models" / "seed0-student" / "training.json").read_text())
    assert {term["name"] for term in student["terms_at_first_step"]} == {
        "dicod/class",
        "dicod/localization",
    }
    assert not any(
        "classifier" in name
        for name in load_file(home / "models" / "seed0-student" / "model.safetensors")
    )


@pytest.mark.slow
def test_a_classifier_is_trained_once_and_measured_on_the_validation_crops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened_smoke(tmp_path, DICOD, quiet=False)
    data, wanted = run.data, wanted_classifier(run.recipe)
    assert wanted is not None
    folder = classifier_folder(run, wanted[0])
    record = json.loads((folder / "training.json").read_text())
    classifier = load_classifier(run, wanted[0], folder)
    assert record["accuracy"] == accuracy(classifier, data)
    objects = sum(len(image.labels) for image in data.val.images)
    assert (record["accuracy"] * objects) % 1 == pytest.approx(0, abs=1e-9)
    assert not any(p.requires_grad for p in classifier.parameters())
    assert classifier_folder(run, wanted[0]) == folder
    said = capsys.readouterr().err
    assert said.count("classifier: 4 steps on the boxes of 4 of 8 pictures") == 1
    assert "% of crops correct on the objects of the validation pictures" in said
    assert "classifier: already trained, kept" in said
