import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.accuracy import METRICS
from benchmarks.accuracy.coco_map import coco_map
from benchmarks.run import main
from export.artifact.manifest import Certificate, file_sha256, write_manifest
from tests.benchmarks.accuracy.boxes_metric import boxes_metric
from tests.manifests import make_manifest

BOX = [4.0, 6.0, 24.0, 30.0]  # of the first bright picture


def write_model(path: Path, *, classes=("red", "green")) -> Path:
    """An ONNX graph that finds `BOX` of class 0 in every picture."""
    constants = {
        "boxes": np.array([[BOX]], dtype=np.float32),
        "scores": np.array([[0.9]], dtype=np.float32),
        "labels": np.array([[0]], dtype=np.int32),
    }
    graph = helper.make_graph(
        [helper.make_node("Identity", [f"{name}_constant"], [name]) for name in constants],
        "constant",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in constants.items()
        ],
        [numpy_helper.from_array(value, f"{name}_constant") for name, value in constants.items()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    certificate = Certificate(nodes={"fp32": 3}, time={"fp32": 1.0}, measured_on="a runtime")
    manifest = make_manifest("constant", (64, 64), classes, path=path)
    manifest = manifest.model_copy(update={"certificate": certificate, "parameters": 6})
    write_manifest(manifest, path.with_suffix(".json"))
    return path


@pytest.mark.slow  # 600 calls in each of several processes
def test_a_model_is_measured_and_reported(tmp_path, data, capsys):
    model = write_model(tmp_path / "model" / "student.onnx")
    out = tmp_path / "report"
    code = main([str(model), "--data", str(data), "--out", str(out), "--threads", "1", "--json"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    content = json.loads(printed.out.splitlines()[-1])
    (row,) = content["rows"]
    # Right on the red picture, wrong on the green one: red has precision 1 up to recall 1 if the
    # right one comes first among equal scores, green has no detection.
    assert row["ap"]["AP"] == pytest.approx(0.5)
    assert row["latency_ms"]["engine"]["n"] == 600
    assert row["sha256"] == file_sha256(model)
    assert (row["certificate"]["nodes"], row["certificate"]["time"]) == ({"fp32": 3}, {"fp32": 1})
    read = {"written": 2, "kept": 2, "dropped": {}, "clipped": 0, "left_out": {}}
    assert content["data"]["splits"][data.stem] == {
        "source": f"COCO JSON {data}, 2 images",
        **{"images": 2, "images_without_boxes": 0, "boxes": 2, "crowd": 0, "read": read},
        "boxes_per_class": {"red": 1, "green": 1},
    }
    markdown = (out / "report.md").read_text()
    assert "Precision certificates" in markdown
    assert f"- splits {data.stem} boxes: 2\n" in markdown
    assert f"<td>splits {data.stem} boxes</td><td>2</td>" in (out / "report.html").read_text()
    saved = json.loads((out / row["predictions"]).read_text())
    truth = json.loads(data.read_text())
    assert coco_map(saved, truth).values == row["ap"]
    names = {path.name for path in out.iterdir()}
    assert names == {"report.json", "report.md", "report.html", "plots", "predictions"}


@pytest.mark.slow
def test_a_metric_is_one_file_and_one_entry_and_is_reported(
    tmp_path, data, capsys, monkeypatch, clock
):
    clock.step_ns = 20_000_000
    monkeypatch.setitem(METRICS, "boxes", boxes_metric)
    model = write_model(tmp_path / "student.onnx")
    out = tmp_path / "report"
    arguments = [str(model), "--data", str(data), "--threads", "1", "--repeats", "1"]
    assert main([*arguments, "--out", str(out)]) == 0, capsys.readouterr().err
    (row,) = json.loads((out / "report.json").read_text())["rows"]
    size = model.stat().st_size
    expected = {"detections": 2, "objects": 2, "bytes": size}  # `BOX` is found in both pictures
    assert row["metrics"]["boxes"]["values"] == expected
    assert row["metrics"]["coco_map"]["values"] == row["ap"]
    assert row["metrics"]["size_mb"]["values"]["size_mb"] == row["size_mb"] == size / 1e6
    lines = (out / "report.md").read_text().splitlines()
    header = lines.index("| row | boxes detections | boxes objects | boxes bytes |")
    assert lines[header + 2] == f"| student onnxruntime fp32 | 2 | 2 | {size} |"
    html = (out / "report.html").read_text()
    assert ">boxes bytes</th>" in html
    assert f">{size}</td>" in html


@pytest.mark.slow
def test_two_models_are_compared_with_the_first_on_a_split_of_a_folder(
    tmp_path, data, capsys, clock
):
    clock.step_ns = 20_000_000
    models = [write_model(tmp_path / name / "student.onnx") for name in ("a", "b")]
    arguments = ["--data", str(data.parent), "--threads", "1", "--repeats", "1", "--json"]
    assert main([*map(str, models), *arguments]) == 0
    content = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert content["name"] == "data, 2 pictures"
    assert len(content["rows"]) == 2
    speed = content["speed"][0]
    assert speed["scope"] == "end_to_end"
    named = [f"student {name}-student onnxruntime fp32" for name in "ba"]
    assert [speed["model"], speed["reference"]] == named  # two of one kind are told apart


@pytest.mark.parametrize(
    ("make", "code", "message"),
    [
        (lambda folder: folder / "gone.onnx", 6, "no such model file"),
        (
            lambda folder: write_model(folder / "m.onnx", classes=("red", "blue")),
            3,
            "only the model has ['blue']",
        ),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(tmp_path, data, capsys, make, code, message):
    assert main([str(make(tmp_path)), "--data", str(data)]) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "tensorrt"], "device tensorrt was asked for"),
        (["--cuda-graph"], "a CUDA graph was asked for, and it is ONNX Runtime's CUDA provider"),
    ],
)
def test_a_device_that_cannot_be_had_is_an_error_and_no_slow_success(
    tmp_path, data, capsys, arguments, said
):
    model = write_model(tmp_path / "student.onnx")
    assert main([str(model), "--data", str(data), *arguments]) == 6
    assert said in capsys.readouterr().err


def test_missing_data_is_a_data_error(tmp_path, capsys):
    model = write_model(tmp_path / "student.onnx")
    assert main([str(model), "--data", str(tmp_path / "gone.json")]) == 3
    assert "gone.json" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_loads_no_training_package():
    script = (
        "import sys, benchmarks.measure; "
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'matplotlib', 'pycocotools'} "
        "& set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
