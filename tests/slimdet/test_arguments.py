"""What the public functions say of arguments that they cannot use."""

import inspect
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import slimdet
from slimdet.result import Result
from tests.benchmarks.test_run import write_model

PIXELS = np.zeros((32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.onnx")


@pytest.fixture(scope="module")
def model(file: Path) -> slimdet.Model:
    return slimdet.load(file)


@pytest.fixture(scope="module")
def result(model: slimdet.Model) -> Result:
    return model.predict(PIXELS)[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"path": 5}, "path 5 is not a path; expected a run's folder"),
        ({"path": ["a"]}, "path of type list is not a path"),
        ({"artifact": 3}, "artifact 3: expected the name of an artifact, or None"),
        ({"device": []}, "device of type list: expected one of cpu"),
        ({"device": "gpu"}, "device 'gpu': expected one of cpu"),
        ({"threads": "a"}, "threads 'a': expected a whole number of at least 1"),
        ({"threads": 1.5}, "threads 1.5: expected a whole number"),
        ({"threads": True}, "threads True: expected a whole number"),
    ],
)
def test_load(file: Path, given: dict[str, object], said: str) -> None:
    refused(slimdet.ExportError, said, slimdet.load, **{"path": file, **given})


LONG = "x" * 5000


def test_a_path_that_no_file_system_holds_is_refused_everywhere(
    model: slimdet.Model, tmp_path: Path
) -> None:
    calls: dict[type[slimdet.ToolkitError], list[Callable[[], object]]] = {
        slimdet.ExportError: [
            lambda: slimdet.load(LONG),
            lambda: slimdet.export(LONG, tmp_path / "out", precision="fp32"),
            lambda: slimdet.export(tmp_path, LONG, precision="fp32"),
            lambda: slimdet.Run(Path(LONG)),
        ],
        slimdet.DataError: [
            lambda: model.predict(LONG),
            lambda: model.predict([tmp_path / LONG]),
            lambda: model.evaluate(LONG),
            lambda: model.evaluate(tmp_path, images=LONG),
        ],
        slimdet.RecipeError: [
            lambda: slimdet.run(LONG),
            lambda: slimdet.run({}, runs=LONG),
        ],
    }
    for kind, functions in calls.items():
        for function in functions:
            with pytest.raises(kind, match="is too long for the file system"):
                function()


def test_an_artifact_is_one_of_the_run_and_no_path(file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "export" / "seed0-student-fp32").mkdir(parents=True)
    (run / "export" / "seed0-student-fp32" / "model.onnx").write_bytes(b"")
    (run / "recipe.lock.json").write_text('{"seed": 0}')
    for name in (f"../../../{file.parent.name}", str(file.parent), LONG):
        with pytest.raises(slimdet.ExportError, match=r"holds no artifact '.*but seed0-student"):
            slimdet.load(run, artifact=name)


@pytest.mark.parametrize(
    "threshold", [10**400, "a", 2, -0.1, float("nan"), True, PIXELS, 1j, [0.5]]
)
def test_a_threshold(model: slimdet.Model, threshold: object) -> None:
    said = "expected a score in 0..1, such as 0.25"
    refused(slimdet.DataError, said, model.predict, PIXELS, threshold=threshold)


@pytest.mark.parametrize("threshold", [0, 1, np.float32(0.5), np.int64(1)])
def test_a_number_of_numpy_is_a_threshold(model: slimdet.Model, threshold: float) -> None:
    assert len(model.predict(PIXELS, threshold=threshold)) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data": None}, "data None is not a path; expected COCO annotations or a data set"),
        ({"data": ""}, "data '' is not a path"),
        ({"split": 3}, "split 3: expected the name of a split"),
        ({"images": 3}, "images 3 is not a path"),
        ({"division": {}}, "division of type dict is not a path"),
    ],
)
def test_evaluate(model: slimdet.Model, given: dict[str, object], said: str) -> None:
    refused(slimdet.DataError, said, model.evaluate, **{"data": "val.json", **given})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": 5}, "model 5 is not a path; expected a run's folder"),
        ({"out": 5}, "out 5 is not a path; expected a folder"),
        ({"precision": 8}, "precision 8: expected one of "),
        ({"precision": []}, "precision of type list: expected one of "),
        ({"precision": "int4"}, "precision 'int4': expected one of "),
        ({"backend": []}, "backend of type list: expected one of onnxruntime"),
        ({"images": 3}, "images 3 is not a path; expected a folder of pictures"),
        ({"count": "a"}, "count 'a': expected a whole number of at least 1"),
        ({"seed": None}, "seed None: expected a whole number of at least 0"),
        ({"keep_float": "conv"}, "keep_float 'conv': expected a list of texts"),
        ({"keep_float": [3]}, "keep_float 3: expected a list of texts"),
    ],
)
def test_export(file: Path, tmp_path: Path, given: dict[str, object], said: str) -> None:
    whole = {"model": file, "out": tmp_path / "out", "precision": "int8", "images": tmp_path}
    refused(slimdet.ExportError, said, slimdet.export, **{**whole, **given})
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_looks_like_an_option_is_a_path(tmp_path: Path) -> None:
    said = "--help: there is no such file or folder"
    refused(slimdet.ExportError, said, slimdet.export, "--help", tmp_path, precision="fp16")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"recipe": 5}, "recipe 5 is not a path; expected a recipe's path or its settings"),
        ({"recipe": ["schema"]}, "recipe of type list is not a path"),
        ({"overrides": "seed=1"}, "overrides 'seed=1': expected a list of texts"),
        ({"overrides": {"seed": 1}}, "overrides of type dict: expected a list of texts"),
        ({"overrides": [3]}, "overrides 3: expected a list of texts"),
        ({"runs": 3}, "runs 3 is not a path; expected a folder"),
        ({"device": 0}, "device 0: expected auto, cpu, cuda or cuda:N"),
        ({"quiet": "no"}, "quiet 'no': expected True or False"),
    ],
)
def test_run(given: dict[str, object], said: str) -> None:
    refused(slimdet.RecipeError, said, slimdet.run, **{"recipe": {"schema": 1}, **given})


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("draw", {"scores": "a"}, "scores 'a': expected True or False"),
        ("draw", {"line_width": 0}, "line_width 0: expected at least 1"),
        ("draw", {"line_width": 1.5}, "line_width 1.5: expected a whole number"),
        ("to_coco", {"image_id": "a"}, "image_id 'a': expected a whole number"),
    ],
)
def test_a_result(result: Result, name: str, given: dict[str, object], said: str) -> None:
    refused(slimdet.DataError, said, getattr(result, name), **given)


def test_a_run_s_folder_may_be_text(tmp_path: Path) -> None:
    made = slimdet.Run(str(tmp_path))  # type: ignore[arg-type]
    assert made.html == tmp_path / "report" / "report.html"
    refused(slimdet.ExportError, "folder 5 is not a path", slimdet.Run, 5)


@pytest.mark.parametrize(
    "name", ["load", "export", "run", "predict", "evaluate", "draw", "to_coco"]
)
def test_a_misspelt_parameter_is_python_s_own_error_at_the_call(
    name: str, model: slimdet.Model, result: Result
) -> None:
    (function,) = {
        getattr(owner, name) for owner in (slimdet, model, result) if hasattr(owner, name)
    }
    kinds = {one.kind for one in inspect.signature(function).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    with pytest.raises(TypeError, match="misspelt") as caught:
        function(misspelt=1)
    assert (
        caught.traceback[-1].name == "test_a_misspelt_parameter_is_python_s_own_error_at_the_call"
    )


def refused(
    kind: type[Exception],
    said: str,
    function: Callable[..., object],
    *given: object,
    **named: object,
) -> None:
    with pytest.raises(kind) as caught:
        function(*given, **named)
    message = str(caught.value)
    assert said in message
    assert "\n" not in message
