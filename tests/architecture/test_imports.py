"""Which folder may import which, and which packages stay light."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.architecture.sources import tree_of

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("export", "benchmarks", "compress", "slimdet")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in FILES
}
MOST_MODULES = 15  # in one folder
ONE_FILE_EACH = {"compress/losses"}  # a file per method, however many there are

# Floors, lowest first: a module imports from floors below its own and from its own unit. A unit is
# a folder; a file directly in a package is a unit of its own. Units of one line share a floor and
# do not import each other.
FLOORS = [
    ["export/errors", "export/config"],
    ["export/optional", "export/atomic", "export/arguments", "export/reading"],
    ["export/artifact"],
    ["export/pictures"],
    ["export/detections"],
    ["export/backends/interface"],
    ["export/draw", "export/backends/onnxruntime", "export/backends/tensorrt"],
    ["export/backends"],
    ["export/engine"],
    ["export/graph"],
    ["export/checks"],
    ["export/precision"],
    ["export/verify"],
    ["export/bundles"],
    ["export/predictions"],
    ["export/build", "export/bundle", "export/lint", "export/predict"],
    ["benchmarks/record"],
    ["benchmarks/data/parts"],
    ["benchmarks/data"],
    ["benchmarks/accuracy", "benchmarks/timing"],
    ["benchmarks/report"],
    ["benchmarks/comparable"],
    ["benchmarks/gates", "benchmarks/measure"],
    ["benchmarks/compare", "benchmarks/run"],
    ["compress/batch", "compress/console"],
    ["compress/detector"],
    ["compress/foreign"],
    ["compress/parts", "compress/tracking"],
    ["compress/data", "compress/training"],
    ["compress/teaching/formats"],
    ["compress/losses/parts", "compress/detectors/parts"],
    ["compress/detectors/ultralytics_parts"],
    ["compress/losses", "compress/detectors"],
    ["compress/distillation"],
    ["compress/teaching/maps"],
    ["compress/teaching"],
    ["compress/teaching/onnx", "compress/teaching/predictions"],
    ["compress/reading"],
    ["compress/recipe_source"],
    ["compress/recipe_file", "compress/recipe_weights"],
    ["compress/recipe"],
    ["compress/stages"],
    ["compress/stages/teaching"],
    ["compress/memory"],
    ["compress/checking"],
    ["compress/checks"],
    ["compress/pipeline"],
    ["compress/plan", "compress/doctor", "compress/methods"],
    ["compress/run"],
    ["benchmarks/studies"],  # the one folder of benchmarks/ that drives the training side
    ["benchmarks/studies/gpu_acceptance"],
    ["slimdet/arguments"],
    ["slimdet/result", "slimdet/pictures"],
    ["slimdet/model"],
    ["slimdet/loading"],
    ["slimdet/checkpoint"],
    ["slimdet/building", "slimdet/running", "slimdet/export_pt"],
    ["slimdet/model_commands"],
    ["slimdet/commands"],
    ["slimdet/__main__", "slimdet/completion"],
]
FLOOR = {unit: number for number, units in enumerate(FLOORS) for unit in units}


def unit(module: str) -> str | None:
    """The unit of a module; None for the bare packages, which hold a docstring alone."""
    path = MODULES[module].relative_to(ROOT)
    if path.parent.as_posix() not in PACKAGES:
        return path.parent.as_posix()
    return None if path.stem == "__init__" else path.with_suffix("").as_posix()


def imported(path: Path) -> Iterator[str]:
    """Every name that a file imports, and every module that it starts by `"-m", "module"`."""
    for node in ast.walk(tree_of(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.List | ast.Tuple):
            said = [e.value if isinstance(e, ast.Constant) else None for e in node.elts]
            for option, value in pairwise(said):
                if option == "-m" and isinstance(value, str):
                    yield value


def wrong_arrows(module: str) -> list[str]:
    """What a module imports from a floor that is not below its own."""
    own = unit(module)
    found = []
    for name in sorted({name for name in imported(MODULES[module]) if name in MODULES}):
        other = unit(name)
        if own is None or other == own:
            continue
        face = name == "slimdet" and not own.startswith("slimdet/")
        if face or (other is not None and FLOOR[other] >= FLOOR[own]):
            found.append(f"{module} -> {name}")
    return found


def test_every_module_imports_only_from_floors_below_its_own() -> None:
    assert [arrow for module in MODULES for arrow in wrong_arrows(module)] == []


def test_a_module_that_is_started_counts_as_imported(tmp_path: Path) -> None:
    file = tmp_path / "starts.py"
    file.write_text('import sys\nrun([sys.executable, "-m", "compress.run", recipe])\n')
    assert "compress.run" in set(imported(file))


def test_no_folder_holds_more_modules_than_one_can_survey() -> None:
    folders: dict[str, int] = {}
    for path in FILES:
        name = path.parent.relative_to(ROOT).as_posix()
        folders[name] = folders.get(name, 0) + 1
    crowded = {name: count for name, count in folders.items() if count > MOST_MODULES}
    assert crowded.keys() <= ONE_FILE_EACH, crowded


@pytest.mark.slow
def test_heavy_packages_are_loaded_only_when_needed() -> None:
    device = {"export.engine": {"torch", "onnxruntime", "onnx"}}
    device |= {"export.predictions": {"torch", "onnx"}}
    device |= {"benchmarks.measure": {"torch", "onnx", "matplotlib"}}
    training = {"compress.run": {"torch", "torchvision", "onnxruntime", "tensorrt", "ultralytics"}}
    above = {"compress.training.loop", "compress.stages", "compress.data", "compress.recipe"}
    # torchvision's own import of torch's compiler takes three seconds and is not ours
    training |= {"compress.parts.without_compiler": {"torch"}}
    losses = {name: above for name in MODULES if name.startswith("compress.losses.")}
    light = {"benchmarks.gates": {"benchmarks.report"}}
    trains = {"compress.training.loop", "compress.stages.fit", "compress.stages.ship"}
    losses |= {"compress.plan": trains}  # `check` runs none of them
    whole = {"compress.pipeline": {"onnxruntime", "tensorrt", "ultralytics", "matplotlib", "timm"}}
    assert loaded_in_vain({**light, **device, **training, **losses, **whole}) == {}


def loaded_in_vain(unwanted: dict[str, set[str]]) -> dict[str, list[str]]:
    """Import modules one after another in a fresh process; return what each should not need.

    A package counts with all its modules. What an earlier module loaded counts for the later ones,
    so those that are to be lightest come first.
    """
    code = """
import importlib, json, sys
found = {}
for name, unwanted in json.loads(sys.argv[1]).items():
    module = importlib.import_module(name)
    loaded = {one for one in unwanted if one in sys.modules}
    if loaded:
        found[name] = sorted(loaded)
    if name == "compress.parts.without_compiler":
        module.import_torchvision()
print(json.dumps(found))
"""
    asked = json.dumps({name: sorted(packages) for name, packages in unwanted.items()})
    done = subprocess.run(
        [sys.executable, "-c", code, asked], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_what_is_loaded_in_vain_is_found() -> None:
    found = loaded_in_vain({"export.errors": {"export", "PIL"}, "export.pictures.images": {"PIL"}})
    assert found == {"export.errors": ["export"], "export.pictures.images": ["PIL"]}


def test_help_answers_without_a_recipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compress.run", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert "key=value" in done.stdout


@pytest.mark.slow
def test_a_check_waits_for_nothing_that_it_does_not_use(tmp_path: Path) -> None:
    code = f"""
import sys
import slimdet
from compress.run import main
from compress.doctor import main as doctor
code = main(["recipes/quickstart.yaml", "--check", "--device", "cpu", "--runs", {str(tmp_path)!r}])
heavy = {{"torch._dynamo", "sympy", "matplotlib", "onnx", "onnxruntime", "lightning_fabric",
         "tensorboard", "pycocotools", "faster_coco_eval", "timm", "scipy", "ultralytics", "cv2"}}
print(code, sorted(heavy & sys.modules.keys()))
import compress.detectors.small_pairs
print(doctor([]) < 2, sorted({{"ultralytics", "cv2"}} & sys.modules.keys()))
from torchvision.ops.roi_align import is_compile_supported
from torch._dynamo.utils import is_compile_supported as real
print(is_compile_supported("cpu") == real("cpu"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [line for line in done.stdout.splitlines() if line in ("0 []", "True []", "True")] == [
        "0 []",
        "True []",
        "True",
    ]
