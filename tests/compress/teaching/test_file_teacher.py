"""Teachers that are files, from the recipe to the report."""

import json
from pathlib import Path
from typing import Any

import pytest

from compress.checks import check_models
from compress.console import Console
from compress.run import main
from compress.stages.opened import Run
from compress.stages.rundir import read_record, read_teaching_costs
from compress.stages.teaching.boxes import ask_file_teacher, found_by_network
from compress.stages.teaching.files import FILE_TEACHER
from compress.teaching.beforehand import BoxTeacher
from export.errors import DataError, RecipeError, ToolkitError
from tests.compress.smoke import assert_refused, opened_smoke, write_smoke

UNLABELED = "data.unlabeled={split: train, count: 12, rest: true}"
PSEUDO = "distill=[{type: pseudo_labels}]"


def write_results(folder: Path, *sets: str, score: float = 0.9) -> Path:
    """Write the objects of the drawn pictures as what a teacher found."""
    data, rows = opened_smoke(folder).data, []
    for image_set in (data.train, data.val):
        if image_set.name not in sets:
            continue
        for image in image_set.images:
            for (x, y, right, bottom), label in zip(image.boxes, image.labels, strict=True):
                bbox = [float(x), float(y), float(right - x), float(bottom - y)]
                row = {"image_id": image.file_name, "category_id": int(label) + 1, "bbox": bbox}
                rows.append({**row, "score": score})
    path = folder / "results.json"
    path.write_text(json.dumps(rows))
    return path


def opened(folder: Path, teacher: str, *overrides: str) -> Run:
    return opened_smoke(folder, f"teacher={teacher}", PSEUDO, *overrides)


def asked(run: Run) -> BoxTeacher:
    assert run.recipe.file_teacher is not None
    return ask_file_teacher(run, run.recipe.file_teacher)


def test_results_teach_and_are_measured_on_val(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_results(tmp_path, "train", "val")
    run = opened(tmp_path, f"{{type: predictions, file: '{path}'}}", UNLABELED)
    run.session.console = Console()
    teacher = asked(run)
    assert teacher.ap == pytest.approx(1.0)
    assert teacher.taught.unlabeled is not None
    first = teacher.taught.train.of(0)
    assert len(first.scores) == len(run.data.train.images[0].labels)
    said = capsys.readouterr().err
    assert "teacher: AP 100.0 on shapes" in said
    assert "4 of 4 pictures of unlabeled have no box in the results" in said


def test_results_without_the_validation_pictures_teach_unmeasured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_results(tmp_path, "train")
    run = opened(tmp_path, f"{{type: predictions, file: '{path}'}}")
    run.session.console = Console()
    assert asked(run).ap is None
    said = capsys.readouterr().err
    assert "teacher: not measured: it has no boxes of the validation pictures" in said
    assert "of val have no box" not in said


def test_a_network_finds_its_boxes_once(tmp_path: Path) -> None:
    run = opened_smoke(tmp_path, PSEUDO, UNLABELED)
    (teacher,) = run.teachers
    found = found_by_network(run, teacher, teacher.build(0))
    assert len(found.train) == 8
    assert found.unlabeled is not None
    assert len(found.unlabeled) == 4
    cost = read_teaching_costs(run.home)["teacher's boxes"]
    assert cost.views == 12
    written = sorted((run.home.parent / ".teach").rglob("boxes.safetensors"))
    made = [path.stat().st_mtime_ns for path in written]
    assert len(made) == 2
    again = found_by_network(run, teacher, teacher.build(0))
    assert [path.stat().st_mtime_ns for path in written] == made
    assert again.train.of(3).boxes.equal(found.train.of(3).boxes)
    written[0].write_bytes(b"damaged")
    found_by_network(run, teacher, teacher.build(0))
    assert written[0].stat().st_mtime_ns > made[0]
    found_by_network(run, teacher, teacher.build(7))
    assert len(list((run.home.parent / ".teach").rglob("boxes.safetensors"))) == 4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["teacher={type: onnx, model: no.onnx}", PSEUDO], "no.onnx: no such file"),
        (["teacher={type: predictions, file: no.json}", PSEUDO], "no.json"),
        (
            ["teacher={type: predictions, file: RESULTS}", "distill=[{type: pkd}]"],
            "pkd compares more than boxes, and a teacher of type predictions gives nothing else",
        ),
        (
            ["teacher={type: predictions, file: RESULTS}", PSEUDO, "inherit=neck+head"],
            "inherit: neck+head copies the weights of a teacher of this package",
        ),
        (
            ["teacher={type: predictions, file: RESULTS}", PSEUDO, "teach={views: 2}"],
            "teach: stores the outputs of a network",
        ),
        (
            ["teacher={type: onx, model: a}", PSEUDO],
            "teacher: 'onx' is not one of the allowed values; did you mean 'onnx'? (allowed: "
            "predictions, onnx, backbone",
        ),
        (
            ["teacher={type: yolo, model: yolo11n}", PSEUDO],
            "(allowed: predictions, onnx, backbone; without type, a section with detector)",
        ),
        (["teacher={type: predictions}", PSEUDO], "teacher.file"),
    ],
)
def test_a_recipe_with_a_wrong_file_teacher_is_refused(
    overrides: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_results(tmp_path, "train")
    given = [one.replace("RESULTS", str(path)) for one in overrides]
    code = DataError.exit_code if said == "no.json" else RecipeError.exit_code
    assert_refused(tmp_path, capsys, given, code, said)


def test_a_teacher_of_other_classes_needs_a_map(tmp_path: Path) -> None:
    path = write_results(tmp_path, "train")
    names = "{a: 1, b: 2, c: 3, d: 4, e: 5, f: 6}"
    teacher = f"{{type: predictions, file: '{path}', categories: {names}}}"
    with pytest.raises(ToolkitError, match="no class of the teacher"):
        check_models(opened(tmp_path, teacher))
    mapped = teacher[:-1] + ", class_map: {disk: [a, b]}}"
    check_models(opened(tmp_path, mapped))


@pytest.mark.slow
def test_an_artifact_of_a_run_teaches_the_next_one(tmp_path: Path) -> None:
    recipe, runs = str(write_smoke(tmp_path)), tmp_path / "r"
    alone = ["teacher=null", "distill=[]", "name=alone"]
    assert main([recipe, *alone, "--runs", str(runs)]) == 0
    model = runs / "alone" / "export" / "seed0-student-fp32" / "model.onnx"
    taught = [f"teacher={{type: onnx, model: '{model}'}}", PSEUDO, UNLABELED]
    assert main([recipe, *taught, "--runs", str(runs)]) == 0
    home = runs / "smoke"
    report: dict[str, Any] = json.loads((home / "report" / "report.json").read_text())
    assert report["gain"] is not None
    (said,) = [note for note in report["notes"] if note.startswith("Teacher (onnx): ")]
    assert "format slimdet" in said
    assert "AP " in said
    assert read_teaching_costs(home)[str(FILE_TEACHER)].views == 12
    assert read_record(home / "models" / "seed0-student").steps == 4
