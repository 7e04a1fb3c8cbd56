"""Fill a recipe's detector sections from the weights files that describe their models.

`detector: {weights: model.safetensors}` is enough where the file was written by a run: its metadata
states the settings. So is `detector: {weights: best.pt}` of a training by Ultralytics' package: the
file states its network. Settings beside it may repeat them and must not contradict them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from compress.foreign.ultralytics_checkpoint import PICKLED, read_checkpoint
from compress.parts.licence import stated_in
from compress.parts.weights import read_metadata
from compress.recipe_source import Source, Tree
from export.config import expanded
from export.errors import RecipeError, ToolkitError, shown
from export.pictures.files import is_file
from export.reading.plain_yaml import Key

# Settings of use: a trained model runs with others as well.
FREE = frozenset({"weights", "transfer", "backbone_weights", "pre_nms"})


def fill_from_weights(source: Source) -> None:
    """Complete the detector sections of a recipe's settings in place.

    Raises:
        RecipeError: settings contradict a file, or a file is all that is given and states none; all
            mistakes at once.
    """
    problems = []
    for keys, section, partly in list(_sections(source.tree)):
        file = section.get("weights")
        if not isinstance(file, str):
            continue
        said = described(Path(file))
        if said is None:
            if "type" not in section:
                problems.append(f"{source.at(*keys, 'weights')}: {_why_it_states_nothing(file)}")
            continue
        settings, classes = said
        if not classes or len(set(map(str, classes))) < len(classes):
            problems.append(
                f"{source.at(*keys, 'weights')}: found the classes {shown(list(classes))} in "
                f"{file}, expected names that are all different; copy the file again from its run"
            )
        wrong = [] if partly else _contradictions(section, settings)
        problems += [
            f"{source.at(*keys, key)}: found {_short(section[key])}, expected "
            f"{_short(settings[key])}, which {file} was trained with; correct it or leave it out"
            for key in wrong
        ]
        if "type" in section and section["type"] != settings["type"]:
            continue
        for key, value in settings.items():
            if key not in FREE and section.get(key) is None:
                section[key] = value
    problems += _wrong_classes(source)
    if problems:
        raise RecipeError(*problems)


def described(file: Path) -> tuple[Tree, tuple[str, ...]] | None:
    """Return the detector's settings and class names that a weights file states, if it does."""
    try:
        file = expanded(file)
        if file.suffix in PICKLED and is_file(file):
            return _of_checkpoint(file)
        content = _metadata(file)
        detector, classes = dict(content["detector"]), tuple(content["manifest"]["classes"])
        return (detector, classes) if "type" in detector else None
    except (ToolkitError, ValueError, KeyError, TypeError, RecursionError):
        return None  # checking the recipe or loading the file says what is wrong


def stated_licences(file: Path | None) -> list[str]:
    """Return the licences of other packages that a weights file states, see `DetectorSpec`."""
    if file is None:
        return []
    try:
        made_by = _metadata(file)["manifest"].get("made_by", {})
        return stated_in({str(name): str(said) for name, said in made_by.items()})
    except (ToolkitError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []  # loading it says what is wrong


def _metadata(file: Path) -> dict[str, Any]:
    """Return the metadata of a trained detector's file; empty for files of other kinds.

    Raises:
        ToolkitError: the file is damaged.
        ValueError, RecursionError: its path or its metadata cannot be read.
    """
    file = expanded(file)
    if file.suffix != ".safetensors" or not is_file(file):
        return {}
    return dict(json.loads(read_metadata(file) or "{}"))


def _of_checkpoint(file: Path) -> tuple[Tree, tuple[str, ...]] | None:
    """Return family, network and class names of a checkpoint of Ultralytics' trainers."""
    try:
        saved = read_checkpoint(file, shapes=True)
    except (ToolkitError, OSError):
        return None  # loading it says what is wrong
    if saved is None:
        return None
    settings: Tree = {"type": saved.family}
    return settings | ({"model": saved.model} if saved.model else {}), saved.classes


def _why_it_states_nothing(file: str) -> str:
    try:
        path = expanded(Path(file))
        if path.is_dir():
            return f"{file} is a folder; name the file of weights in it"
        if is_file(path) and not path.stat().st_size:
            return f"{file} is empty; fetch or save it again"
        if path.suffix == ".onnx" and is_file(path):
            return (
                f"{file} is an ONNX file, which can be run but not trained; give the weights that "
                f"it was exported from, or as a teacher {{type: onnx, model: {file}}} in place of "
                "detector"
            )
        if path.suffix in PICKLED and is_file(path):
            read_checkpoint(path, shapes=True)
        elif path.suffix == ".safetensors" or not is_file(path):
            read_metadata(path)
    except (ToolkitError, ValueError, OSError) as error:
        return str(error)
    return (
        f"{file} does not state the settings of its detector (no metadata); give type, backbone "
        "or model, and the others it was trained with"
    )


def _teachers(tree: Tree) -> Iterator[tuple[Key, Tree]]:
    """Yield the path and the settings of every teacher."""
    given = tree.get("teacher")
    if isinstance(given, dict):
        yield ("teacher",), given
    elif isinstance(given, list):
        for index, one in enumerate(given):
            if isinstance(one, dict):
                yield ("teacher", index), one


def _sections(tree: Tree) -> Iterator[tuple[Key, Tree, bool]]:
    """Yield path and settings of every detector, and whether its weights may match in part."""
    for keys, teacher in _teachers(tree):
        detector = teacher.get("detector")
        if isinstance(detector, dict):
            yield (*keys, "detector"), detector, teacher.get("strict") is False
    student = tree.get("student")
    if isinstance(student, dict):
        yield ("student",), student, False


def _contradictions(section: Tree, settings: Tree) -> list[str]:
    """Return the keys whose values the file contradicts; the type alone where it differs."""
    if section.get("type", settings["type"]) != settings["type"]:
        return ["type"]
    return [
        key
        for key, value in section.items()
        if key not in FREE and key in settings and not _agrees(value, settings[key])
    ]


def _agrees(given: JsonValue, stated: JsonValue) -> bool:
    """Whether a setting, where it is given, is what the file states; null follows the input."""
    if given is None:
        return True
    if isinstance(given, dict) and isinstance(stated, dict):
        return all(_agrees(value, stated.get(key)) for key, value in given.items())
    return given == stated


def _wrong_classes(source: Source) -> list[str]:
    problems = []
    for keys, teacher in _teachers(source.tree):
        detector, classes = teacher.get("detector"), teacher.get("classes")
        file = detector.get("weights") if isinstance(detector, dict) else None
        said = described(Path(file)) if isinstance(file, str) else None
        if said is None or not isinstance(classes, list) or teacher.get("strict") is False:
            continue
        if tuple(classes) != said[1]:
            problems.append(
                f"{source.at(*keys, 'classes')}: found {_short(classes)}, expected "
                f"{_short(list(said[1]))}, the classes of {file}; leave it out, or set "
                "strict: false to go by the recipe's"
            )
    return problems


def _short(value: JsonValue) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
