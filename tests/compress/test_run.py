"""The command line, as a user meets it: one message, the right exit code, no damage."""

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import load_file

from compress.parts.weights import weights_hash
from compress.pipeline import train_models
from compress.run import main
from compress.stages.model_file import load_detector
from tests.compress.smoke import WHOLE, assert_refused, opened_smoke, write_smoke

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("recipe", ["missing.yaml", str(ROOT / "recipes" / "quickstart.yaml")])
def test_objects_are_collected_again_when_the_command_has_ended(
    recipe: str, tmp_path: Path
) -> None:
    main([recipe, "--check", "--runs", str(tmp_path), "data.no_such_key=1"])

    assert gc.isenabled()


@pytest.fixture
def finished(finished_run: Path) -> tuple[Path, dict[str, Any]]:
    """Return the folder of the finished run, and what its command said."""
    said: dict[str, Any] = json.loads((finished_run / "said.json").read_text())
    return finished_run / "runs" / "smoke", said


@pytest.mark.slow
def test_one_recipe_goes_from_data_to_report(finished: tuple[Path, dict[str, Any]]) -> None:
    home, said = finished
    report = json.loads((home / "report" / "report.json").read_text())
    assert said["ok"] is True
    assert Path(said["report"]) == home / "report" / "report.json"
    kinds = [(row["model"], row["backend"], row["precision"]) for row in report["rows"]]
    assert kinds == [
        ("teacher", "torch", "fp32"),
        ("teacher", "onnxruntime", "fp32"),
        ("baseline", "torch", "fp32"),
        ("baseline", "onnxruntime", "fp32"),
        ("student", "torch", "fp32"),
        ("student", "onnxruntime", "fp32"),
        ("student", "onnxruntime", "fp16"),
        ("student", "onnxruntime", "int8"),
        ("student", "onnxruntime", "int8-trt"),
    ]
    assert report["schema"] == 1
    assert report["gain"]["seeds"] == 2
    assert len(report["gain"]["ci95"]) == 2
    ends = {(c["model"], c["seed"]): c["points"][-1][0] for c in report["timed"]["curves"]}
    roles = ("baseline", "student")
    assert ends == {
        (role, seed): report["training"][f"seed{seed}-{role}"]["curve"][-1]["processor_seconds"]
        for role in roles
        for seed in (0, 1)
    }
    html = (home / "report" / "report.html").read_text()
    assert 'src="data:image/png;base64,' in html
    assert "http://" not in html.replace("http://www.w3.org", "")


@pytest.mark.slow
def test_every_row_says_what_it_computes_in_and_tensorrts_has_no_latency(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    report = json.loads((finished[0] / "report" / "report.json").read_text())
    rows = {row["precision"]: row for row in report["rows"] if row["key"].startswith("seed0-stud")}
    kinds = {name: set(row["certificate"]["nodes"]) for name, row in rows.items()}
    assert kinds == {
        "fp32": {"fp32"},
        "fp16": {"fp16"},
        "int8": {"fp32", "int8"},
        "int8-trt": {"fp16", "int8"},
    }
    assert {row["nms"]["mode"] for row in rows.values()} == {"graph"}
    measured = [row["latency_ms"] for row in report["rows"] if row["latency_ms"]]
    assert {latency["repeats"]["processes"] for latency in measured} == {2}
    assert rows["int8-trt"]["latency_ms"] is None
    assert rows["int8-trt"]["verdict"].startswith("not measured")
    assert rows["int8"]["quantization"]["max_drop"] == 0.5
    assert len(rows["int8"]["quantization"]["layers"]) > 5
    assert not any("int8-trt" in speed["model"] for speed in report["speed"])


@pytest.mark.slow
def test_the_ap_of_every_row_is_that_of_its_saved_predictions(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    folder = finished[0] / "report"
    truth = COCO(folder / "ground_truth.json")
    for row in json.loads((folder / "report.json").read_text())["rows"]:
        results = json.loads((folder / row["predictions"]).read_text())
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        for name, value in zip(row["ap"].values(), judge.stats, strict=True):
            assert (name or 0.0) == pytest.approx(max(value, 0.0), abs=1e-9)
        assert (folder / row["artifact"]).is_file()


@pytest.mark.slow
def test_student_and_baseline_begin_alike_and_the_teacher_is_in_no_file(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    models = finished[0] / "models"
    student = load_file(models / "seed0-student" / "model.safetensors")
    baseline = load_file(models / "seed0-baseline" / "model.safetensors")
    assert student.keys() == baseline.keys()
    record = json.loads((models / "seed0-student" / "training.json").read_text())
    assert {t["name"] for t in record["terms_at_first_step"]} >= {
        "defeat/neck_object",
        "gid/feature",
    }
    teacher = load_detector(models / "teacher" / "model.safetensors").detector
    assert record["teacher_sha256"] == weights_hash(teacher)


@pytest.mark.slow
def test_a_finished_run_is_kept_and_a_changed_recipe_refused(
    finished: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home, recipe = tmp_path / "smoke", str(write_smoke(tmp_path))
    shutil.copytree(finished[0], home)
    written = (home / "report" / "report.json").stat().st_mtime_ns
    assert main([recipe, "--runs", str(tmp_path), *WHOLE]) == 0
    assert (home / "report" / "report.json").stat().st_mtime_ns == written
    capsys.readouterr()
    assert main([recipe, "--runs", str(tmp_path), "train.steps=9"]) == 2
    said = capsys.readouterr().err
    assert "was made with" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_the_exported_student_runs_without_torch(
    finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    from PIL import Image

    Image.new("RGB", (80, 60), (90, 120, 60)).save(tmp_path / "a.png")
    model = finished[0] / "export" / "seed0-student-fp32" / "model.onnx"
    code = (
        "import sys; from export.predict import main; "
        f"code = main([{str(model)!r}, {str(tmp_path / 'a.png')!r}, '--out', {str(tmp_path)!r}]); "
        "assert 'torch' not in sys.modules; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_global_batch(tmp_path: Path) -> None:
    overrides = ("distill=[]", "baseline.enabled=false", "train.optimizer=sgd", "train.lr=0.05")
    run = opened_smoke(tmp_path, *overrides)
    run.home.mkdir()
    train_models(run)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += [
        "-m",
        "compress.run",
        str(tmp_path / "recipe.yaml"),
        "--runs",
        str(tmp_path),
        *overrides,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for model in ("teacher", "seed0-student"):
        files = [h / "models" / model / "model.safetensors" for h in (run.home, tmp_path / "smoke")]
        one, two = (load_file(file) for file in files)
        for name, value in one.items():
            assert (value - two[name]).abs().max() < 2e-5, name


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(tmp_path: Path) -> None:
    recipe = write_smoke(tmp_path)
    command = [sys.executable, "-m", "compress.run", str(recipe), "--runs", str(tmp_path / "r")]
    command += ["teacher.train.epochs=500", "baseline.enabled=false", "train.steps=1"]
    state = tmp_path / "r" / "smoke" / "training" / "teacher" / "last.pt"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while not state.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == 130
    assert "run the same command again" in said
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as again:
        assert again.stderr is not None
        assert any("teacher: resuming from step" in line for line in again.stderr)
        again.kill()


@pytest.mark.parametrize("runs", ["taken", "taken/deeper", "/proc/1/runs"])
def test_check_and_run_refuse_a_folder_that_cannot_be_written_before_reading_data(
    runs: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "taken").write_text("a file")
    recipe = str(write_smoke(tmp_path))
    data = "data={type: folder, root: nowhere, image_size: 64}"
    place = str(tmp_path / runs)
    said = []
    for check in (["--check"], []):
        assert main([recipe, data, *check, "--runs", place]) == 1
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert said[0].startswith(f"error: {place}/smoke: cannot be written to (")
    assert said[0].count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"taken", "recipe.yaml"}


@pytest.mark.parametrize(
    ("lock", "code", "words"),
    [
        ("{", 2, "is not JSON"),
        ('{"seed": 5}', 2, "choose another name"),
        (None, 1, "cannot be read"),
    ],
)
def test_check_says_of_a_run_s_folder_what_run_would(
    lock: str | None, code: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, home = str(write_smoke(tmp_path)), tmp_path / "runs" / "smoke"
    home.mkdir(parents=True)
    if lock is None:
        (home / "recipe.lock.json").mkdir()
    else:
        (home / "recipe.lock.json").write_text(lock)
    said = []
    for check in (["--check"], []):
        assert main([recipe, *check, "--runs", str(home.parent)]) == code
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert words in said[0]
    assert said[0].count("\n") == 1


def test_check_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main([str(write_smoke(tmp_path)), "--check", "--json", "--runs", str(tmp_path / "r")]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert [stage["name"] for stage in said["check"]["stages"]] == [
        "teacher",
        "seed0-baseline",
        "seed0-student",
    ]
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "mistake",
    [
        (["train.epochs=x"], 2, "expected a whole number"),
        (["student.strides=[32]", "student.type=gfl"], 2, "distill[0]"),
        (["data={type: folder, root: /no/such/folder, image_size: 64}"], 3, "/no/such/folder"),
        (["train.batch=64"], 3, "64"),
        (
            ["data.difficulty=hard", "teacher.data={type: shapes, image_size: 64}"],
            2,
            "does not know the student's classes",
        ),
        (["teacher.data={type: shapes, image_size: 96}"], 2, "image_size"),
        (["teacher.train=null", "teacher.detector.weights=/no/such.pt"], 2, "/no/such.pt"),
        (["train.amp=fp16"], 2, "fp16"),
        (["data.unlabeled={count: 2}"], 3, "data.unlabeled: has 2 pictures"),
        (
            ["data.unlabeled={count: 4}", "train.labeled_batch=9"],
            3,
            "a step takes 9 labelled pictures, and there are 8",
        ),
        (
            ["student={type: fcos, backbone: resnet18, width: 16, strides: [8, 16]}"],
            2,
            "distill[1] (with student={type: fcos",
        ),
    ],
)
def test_a_mistake_is_one_message_and_the_right_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], mistake: tuple[list[str], int, str]
) -> None:
    assert_refused(tmp_path, capsys, *mistake)


def test_a_device_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(write_smoke(tmp_path))
    assert main([recipe, "--runs", str(tmp_path), "--device", "cuda:99"]) == 2
    assert "CUDA devices" in capsys.readouterr().err
