"""A setting has one name in the commands, in Python and in the recipe."""

import inspect
from collections.abc import Callable

import pytest
from pydantic import BaseModel

import slimdet
from benchmarks.gates import GatesConfig
from compress.recipe import CalibrationConfig, Recipe
from slimdet.commands import COMMANDS
from slimdet.completion import parser_of


def dests(command: str) -> set[str]:
    parser = parser_of(COMMANDS[command].target, f"slimdet {command}")
    return {action.dest for action in parser._actions}


@pytest.mark.parametrize(
    ("command", "function", "python_alone"),
    [
        ("predict", slimdet.load, {"path"}),
        ("predict", slimdet.Model.predict, {"self", "source"}),
        ("bench", slimdet.Model.evaluate, {"self"}),
        ("build", slimdet.export, set()),
        ("run", slimdet.run, {"quiet"}),
    ],
)
def test_a_parameter_in_python_is_called_what_the_command_calls_it(
    command: str, function: Callable[..., object], python_alone: set[str]
) -> None:
    assert set(inspect.signature(function).parameters) - python_alone <= dests(command)


@pytest.mark.parametrize(
    ("command", "section", "recipe_alone"),
    [("build", CalibrationConfig, set()), ("compare", GatesConfig, {"reference"})],
)
def test_a_key_of_the_recipe_is_called_what_the_command_calls_it(
    command: str, section: type[BaseModel], recipe_alone: set[str]
) -> None:
    assert set(section.model_fields) - recipe_alone <= dests(command)


@pytest.mark.parametrize(
    ("command", "typed", "name", "value"),
    [
        ("predict", ["model.onnx", "photos", "--score", "0.5"], "threshold", 0.5),
        ("verify", ["bundle", "--only", "x"], "artifact", "x"),
        ("build", ["model.onnx", "--precision", "fp16", "--out", "o"], "device", 0),
        ("build", ["m.onnx", "--precision", "fp16", "--out", "o", "--device", "2"], "device", 2),
        ("build", ["m.onnx", "--precision", "fp16", "--out", "o", "--device=cuda:1"], "device", 1),
    ],
)
def test_an_older_spelling_still_works(command, typed, name, value) -> None:
    parser = parser_of(COMMANDS[command].target, f"slimdet {command}")
    assert getattr(parser.parse_args(typed), name) == value
    assert "--score" not in parser.format_help()
    assert "--only" not in parser.format_help()


@pytest.mark.parametrize("device", ["cpu", "cuda:1_0", "cuda:\uff11", "9" * 5000])
def test_a_gpu_that_is_none_is_refused(device: str, capsys) -> None:
    parser = parser_of(COMMANDS["build"].target, "slimdet build")
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["model.onnx", "--precision", "fp16", "--out", "o", "--device", device])
    assert ended.value.code == 2
    assert " is not a GPU" in capsys.readouterr().err


def test_calibration_images_is_an_older_spelling_of_count() -> None:
    read = CalibrationConfig.model_validate({"images": 5, "seed": 3})
    assert read == CalibrationConfig(count=5, seed=3)
    before = Recipe.model_fields["export"].annotation
    assert before is not None
    assert before.model_validate({"calibration": {"images": 5}}).calibration.count == 5


def paths(command: str) -> list[str]:
    parser = parser_of(COMMANDS[command].target, f"slimdet {command}")
    found = [action for action in parser._actions if action.type is not None]
    takes = [a for a in found if getattr(a.type, "__name__", "") in {"some_path", "Path"}]
    return [action.option_strings[-1] if action.option_strings else "" for action in takes]


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_an_empty_path_is_refused_by_every_option(command, capsys) -> None:
    parser = parser_of(COMMANDS[command].target, f"slimdet {command}")
    for option in paths(command):
        with pytest.raises(SystemExit) as ended:
            parser.parse_args([f"{option}="] if option else [""])
        assert ended.value.code == 2
        assert capsys.readouterr().err.count("the path is empty") == 1
    known = {"completion", "methods"}  # take no path
    assert bool(paths(command)) == (command not in known)
