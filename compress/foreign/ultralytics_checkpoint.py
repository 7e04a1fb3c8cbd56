"""Read the `.pt` checkpoints of Ultralytics' trainers, which pickle whole modules.

`torch_file` interprets the file; neither the package nor any code of the file is run, and the
package need not be installed. What is read is the averaged model (`ema`) where there is one, else
`model`; of a checkpoint of Ultralytics' own distillation, the student in it.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

from torch import Tensor

from compress.foreign.expected_names import is_expected
from compress.foreign.pickle_machine import Made, NotReadableError
from compress.foreign.stored_tensor import kind_of, stored_tensor
from compress.foreign.torch_file import TorchFile, is_torch_script, read_torch_file
from export.errors import DataError, RecipeError, counted, shown

TASKS = "ultralytics.nn.tasks."
FAMILIES: dict[str, Literal["yolo", "rtdetr"]] = {
    "DetectionModel": "yolo",
    "YOLOv10DetectionModel": "yolo",
    "RTDETRDetectionModel": "rtdetr",
}
MOST_ENTRIES = 200_000  # modules, parameters and buffers; a rtdetr-x has 4,000
LONGEST_NAME = 200
DEEPEST = 100


PICKLED = (".pt", ".pth")  # how the names of such files end


@dataclass(frozen=True)
class UltralyticsCheckpoint:
    """A detector that Ultralytics saved.

    Attributes:
        tensors: tensors by the names of its state_dict, `model.N.*`; FP16 and BF16 as FP32.
        family: the recipe's `type`.
        model: name of the network, such as `yolo11n`; empty where the file names another.
        description: name of the description that it was built from, such as `yolo11n.yaml`.
        classes: names in the order of its labels.
        version: version of the package that saved it; empty if it is not stated.
        date: when it was saved, as the file states it; empty if it does not.
        train_args: settings of its training that are plain values.
    """

    tensors: dict[str, Tensor]
    family: Literal["yolo", "rtdetr"]
    model: str
    description: str
    classes: tuple[str, ...]
    version: str
    date: str
    train_args: dict[str, object]

    def sentence(self) -> str:
        """Return what the file holds, in a sentence."""
        by = f", saved by ultralytics {self.version}" if self.version else ""
        first = ", ".join(self.classes[:3]) + (", ..." if len(self.classes) > 3 else "")
        return (
            f"The file says that it holds {self.model or self.description or 'a network'} for "
            f"{counted(len(self.classes), 'class', 'classes')} ({first}){by}"
        )


def read_checkpoint(path: Path, *, shapes: bool = False) -> UltralyticsCheckpoint | None:
    """Read a checkpoint that pickles modules.

    With `shapes` no tensor's values are read, and tensors are on the device `meta`.

    Returns:
        None for a file of torch.save that pickles no modules, such as a state_dict, and for files
        of other kinds.

    Raises:
        RecipeError: it holds no detector of a known family, or is fused, or names what could run
            code.
        DataError: it is damaged.
    """
    try:
        file = read_torch_file(path)
        if file is None:
            return None
        if is_torch_script(path):
            raise RecipeError(
                f"{path}: is a TorchScript archive, an export that cannot be trained further; give "
                "the .pt that it was exported from"
            )
        found = _module_in(file.content)
        if found is None:
            return None
        top, model = found
        _refuse_dangerous(path, file)
        family = _family(path, model)
        _refuse_fused(path, model)
        tensors = dict(_tensors(file, model, shapes))
    except NotReadableError as error:
        raise DataError(
            f"{path}: cannot be read as a checkpoint ({error}); fetch or save it again"
        ) from error
    if not tensors:
        raise DataError(f"{path}: holds a model without tensors; fetch or save it again")
    return _with_facts(tensors, family, top, model)


def _module_in(content: object) -> tuple[dict[object, object], Made] | None:
    """Find the pickled model: the entries beside it, and the model; None if there is none."""
    top = content if isinstance(content, dict) else {}
    for candidate in (top.get("ema"), top.get("model"), content):
        model = candidate
        for _ in range(DEEPEST):
            if not isinstance(model, Made):
                break
            inner = _inner(model)
            if inner is None:
                return (top, model) if _children(model) or model.name.startswith(TASKS) else None
            model = inner
    return None


def _inner(model: Made) -> Made | None:
    """Return the model that another wraps: a distilled student, or that of a parallel training."""
    children = _children(model)
    for name in ("student_model", "module", "model"):
        inner = children.get(name)
        if isinstance(inner, Made) and (name != "model" or inner.name.startswith(TASKS)):
            return inner
    return None


def _state(module: Made) -> dict[object, object]:
    return module.state if isinstance(module.state, dict) else {}


def _entries(module: Made, kind: str) -> dict[object, object]:
    found = _state(module).get(kind)
    return found if isinstance(found, dict) else {}


def _children(module: Made) -> dict[object, object]:
    return _entries(module, "_modules")


def _walk(model: Made) -> Iterator[tuple[str, Made]]:
    """Yield every module with the prefix of its tensors' names.

    Raises:
        NotReadableError: they are too many or too deep, as where one contains itself.
    """
    waiting, count = [("", model)], 0
    while waiting:
        prefix, module = waiting.pop()
        parts = [_entries(module, kind) for kind in ("_parameters", "_buffers", "_modules")]
        count += 1 + sum(map(len, parts)) + len(_left_out(module))
        if count > MOST_ENTRIES or prefix.count(".") > DEEPEST:
            raise NotReadableError("its modules are too many or too deep")
        if any(not isinstance(key, str) or len(key) > LONGEST_NAME for one in parts for key in one):
            raise NotReadableError("a module or tensor in it has no valid name")
        yield prefix, module
        inner = [(f"{prefix}{k}.", m) for k, m in parts[2].items() if isinstance(m, Made)]
        waiting += reversed(inner)


def _tensors(file: TorchFile, model: Made, shapes: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield what the model's state_dict would hold."""
    held = 0
    for prefix, module in _walk(model):
        left_out = _left_out(module)
        for kind in ("_parameters", "_buffers"):
            for key, value in _entries(module, kind).items():
                if value is None or (kind == "_buffers" and key in left_out):
                    continue
                name = f"{prefix}{key}"
                stored = stored_tensor(name, value)
                file.check(stored.storage)
                held += stored.bytes
                if held > file.size:  # tensors that share their values take none in the file
                    raise NotReadableError("it describes more values than it holds")
                yield name, stored.shape_only() if shapes else stored.read(file)


def _left_out(module: Made) -> set[str]:
    """Return the names of buffers that are not in the module's state_dict: a pickled set."""
    found = _state(module).get("_non_persistent_buffers_set")
    if not isinstance(found, Made):
        return set()
    given = found.args[0] if found.args else []
    names = given if isinstance(given, list) and given else found.rest
    return {name for name in names if isinstance(name, str)}


def _family(path: Path, model: Made) -> Literal["yolo", "rtdetr"]:
    """Return the recipe's `type` of a pickled model.

    Raises:
        RecipeError: it is no detector, or none of Ultralytics' package.
    """
    if model.name.split(".")[0] == "models":
        raise RecipeError(
            f"{path}: is a checkpoint of the repository YOLOv5 (or of one that began as its copy, "
            f"such as YOLOv7): it pickles {model.name}. Its network is another than that of any "
            "family here; train a YOLOv8, YOLO11 or YOLO26 with the package ultralytics"
        )
    if not model.name.startswith(TASKS):
        raise RecipeError(
            f"{path}: refused: it pickles a whole model of the class {kind_of(model)}, which is "
            "not Ultralytics', and loading that could run any code. Save its state_dict with "
            "torch.save or as safetensors, and name that"
        )
    name = model.name.removeprefix(TASKS)
    if name not in FAMILIES:
        task = _state(model).get("task")
        said = f", for the task {task}" if isinstance(task, str) else ""
        raise RecipeError(
            f"{path}: holds a {name}{said}; expected a detector (task detect): boxes without "
            "masks, keypoints, rotation or prompts. Give a checkpoint of that task"
        )
    return FAMILIES[name]


def _refuse_fused(path: Path, model: Made) -> None:
    """Refuse a model without BatchNorm.

    Raises:
        RecipeError: its BatchNorm was folded into its convolutions.
    """
    names = [module.name for _, module in _walk(model)]
    if any(".Conv2d" in name for name in names) and not any("BatchNorm" in name for name in names):
        raise RecipeError(
            f"{path}: the model is fused (its BatchNorm is folded into its convolutions, as "
            "model.fuse() and exports do), which cannot be undone. Give the best.pt or last.pt of "
            "its training, or save it before it is fused"
        )


def unexpected_name(path: Path) -> str | None:
    """Return a class or function that a file of torch.save names and no checkpoint needs."""
    with suppress(NotReadableError, OSError):
        file = read_torch_file(path)
        if file is not None:
            return _unexpected(file)
    return None


def _unexpected(file: TorchFile) -> str | None:
    return next((shown(name) for name in sorted(file.names) if not is_expected(name)), None)


def _refuse_dangerous(path: Path, file: TorchFile) -> None:
    """Refuse a file that names what no checkpoint needs; nothing of it was run.

    Raises:
        RecipeError: naming it.
    """
    found = _unexpected(file)
    if found is not None:
        raise RecipeError(
            f"{path}: refused: the file names {found}, which no checkpoint needs, so that loading "
            "it with torch or ultralytics could run code of its maker. It was not run here. Get "
            "the file from a source that you trust"
        )


def _with_facts(
    tensors: dict[str, Tensor],
    family: Literal["yolo", "rtdetr"],
    top: dict[object, object],
    model: Made,
) -> UltralyticsCheckpoint:
    state = _state(model)
    described = state.get("yaml")
    yaml = described if isinstance(described, dict) else {}
    settings = top.get("train_args", state.get("args"))
    return UltralyticsCheckpoint(
        tensors=tensors,
        family=family,
        model=_network(yaml),
        description=_text(yaml.get("yaml_file")),
        classes=_classes(state.get("names")),
        version=_text(top.get("version")),
        date=_text(top.get("date")),
        train_args={
            key: value
            for key, value in (settings.items() if isinstance(settings, dict) else ())
            if isinstance(key, str) and (value is None or isinstance(value, str | int | float))
        },
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _network(yaml: dict[object, object]) -> str:
    """Name the network that a description builds: `yolo11.yaml` with the scale n is yolo11n."""
    stem = PureWindowsPath(_text(yaml.get("yaml_file"))).stem  # both kinds of slashes
    if re.fullmatch(r"rtdetr-\w+", stem):
        return stem
    parts = re.fullmatch(r"(yolov?\d+)([a-z])?(-p\d)?", stem)
    if parts is None:
        return ""
    scales = yaml.get("scales")
    first = next(iter(scales), "") if isinstance(scales, dict) else ""
    # the package takes the first one where none is given
    scale = _text(yaml.get("scale")) or parts[2] or _text(first)
    return f"{parts[1]}{scale}{parts[3] or ''}"


def _classes(names: object) -> tuple[str, ...]:
    """Return the class names of a model: a dictionary by label, or a list."""
    if isinstance(names, dict):
        names = [names.get(label) for label in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names)
