"""The command line, as a user meets it: one message, the right exit code, no damage."""

import gc
import json
import os
import random
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

from compress.run import main
from tests.compress.smoke import assert_refused, write_smoke

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = (
    "baseline.equal_time=true",
    "seeds=2",
    "export.precisions=[fp32, fp16, int8, int8-trt]",
    "export.nms=graph",
    "benchmark.repeats=2",
)


@pytest.mark.parametrize("recipe", ["missing.yaml", str(ROOT / "recipes" / "quickstart.yaml")])
def test_objects_are_collected_again_when_the_command_has_ended(
    recipe: str, tmp_path: Path
) -> None:
    main([recipe, "--check", "--runs", str(tmp_path), "data.no_such_key=1"])

    assert gc.isenabled()


def run(*arguments: object, processes: int = 1) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m"]
    if processes > 1:
        program += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    return subprocess.run(
        [*program, "compress.run", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("smoke")
    done = run(
        write_smoke(folder),
        "--runs",
        folder / "runs",
        "--json",
        *OVERRIDES,
    )
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "smoke", json.loads(done.stdout.splitlines()[-1])


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
        ("baseline_equal_time", "onnxruntime", "fp32"),
    ]
    assert report["schema"] == 1
    assert report["gain"]["seeds"] == 2
    assert len(report["gain"]["ci95"]) == 2
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
    assert record["teacher_sha256"]


@pytest.mark.slow
def test_a_finished_run_is_kept_and_a_changed_recipe_refused(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    home, _ = finished
    recipe, runs = home.parent.parent / "recipe.yaml", home.parent
    written = (home / "report" / "report.json").stat().st_mtime_ns
    same = run(
        recipe,
        "--runs",
        runs,
        *OVERRIDES,
    )
    assert same.returncode == 0, same.stderr
    assert (home / "report" / "report.json").stat().st_mtime_ns == written
    changed = run(recipe, "--runs", runs, "train.steps=9")
    assert changed.returncode == 2
    assert "was made with" in changed.stderr
    assert "Traceback" not in changed.stderr


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
    recipe = write_smoke(tmp_path)
    overrides = ("distill=[]", "baseline.enabled=false", "train.optimizer=sgd", "train.lr=0.05")
    homes = []
    for processes in (1, 2):
        done = run(recipe, "--runs", tmp_path / str(processes), *overrides, processes=processes)
        assert done.returncode == 0, done.stderr
        homes.append(tmp_path / str(processes) / "smoke")
    one, two = (load_file(h / "models" / "seed0-student" / "model.safetensors") for h in homes)
    for name, value in one.items():
        assert (value - two[name]).abs().max() < 2e-5, name


def fingerprint(home: Path) -> tuple[dict[str, bytes], list[Any]]:
    weights = {p.parent.name: p.read_bytes() for p in home.glob("models/*/model.safetensors")}
    rows = json.loads((home / "report" / "report.json").read_text())["rows"]
    return weights, [(row["key"], row["sha256"], row["ap"]) for row in rows]


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_for_bit_as_one_that_was_not(tmp_path: Path) -> None:
    """SLIMDET_KILLS says how often; a run that survives its kills is compared, then begun anew."""
    recipe = write_smoke(tmp_path)
    start = time.monotonic()
    done = run(recipe, "--runs", tmp_path / "whole")
    assert done.returncode == 0, done.stderr
    took = time.monotonic() - start
    whole = fingerprint(tmp_path / "whole" / "smoke")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    moments = random.Random(0)
    kills, runs = 0, 0
    while kills < int(os.environ.get("SLIMDET_KILLS", "2")):
        folder = tmp_path / f"cut{runs}"
        command = [sys.executable, "-m", "compress.run", str(recipe), "--runs", str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        try:
            # the first fifth is imports, where there is nothing to lose
            assert process.wait(timeout=took * moments.uniform(0.2, 1)) == 0
            assert fingerprint(folder / "smoke") == whole
            runs += 1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    done = run(recipe, "--runs", tmp_path / f"cut{runs}")
    assert done.returncode == 0, done.stderr
    assert fingerprint(tmp_path / f"cut{runs}" / "smoke") == whole


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
            ["student={type: fcos, backbone: resnet18, width: 16, strides: [8, 16]}"],
            2,
            "distill[1]: ",
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
