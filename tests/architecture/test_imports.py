"""Who may import whom, and what stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    p for room in ("compress", "export", "benchmarks") for p in (ROOT / room).rglob("*.py")
)
# Development benchmarks: they drive the training side on purpose.
EXCEPTIONS = {
    "benchmarks/kd_step.py",
    "benchmarks/kd_pair.py",
    "benchmarks/kd_methods.py",
    "benchmarks/roi_align.py",
    "benchmarks/two_stage.py",
}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_are_entered_through_their_doors_only(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if name.startswith("export/"):
        assert not rooms(path) & {"compress", "benchmarks"}
    if name.startswith("benchmarks/") and name not in EXCEPTIONS:
        assert "compress" not in rooms(path)
    if name.startswith("compress/losses/"):
        assert not any(i.startswith("compress.detectors") for i in imported(path))
    if name.startswith("compress/detectors/"):
        assert not any(i.startswith("compress.losses") for i in imported(path))
    if name == "compress/train.py":
        assert not any(
            i.startswith(("compress.losses", "compress.detectors")) for i in imported(path)
        )


def loaded(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("statement", "heavy"),
    [
        ("import compress.run", {"torch", "torchvision", "onnxruntime", "tensorrt", "ultralytics"}),
        (
            "import compress.pipeline",
            {"onnxruntime", "tensorrt", "ultralytics", "matplotlib", "timm"},
        ),
        ("import export.engine", {"torch", "onnxruntime", "onnx"}),
        ("import export.predict", {"torch", "onnx"}),
        ("import benchmarks.run", {"torch", "onnx", "matplotlib"}),
    ],
)
def test_heavy_packages_are_loaded_only_when_needed(statement: str, heavy: set[str]) -> None:
    assert not loaded(statement) & heavy


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
def test_a_check_waits_for_nothing_that_it_does_not_use() -> None:
    code = """
import sys
from compress.run import main
code = main(["recipes/quickstart.yaml", "--check", "--device", "cpu"])
heavy = {"torch._dynamo", "sympy", "matplotlib", "onnx", "onnxruntime", "lightning_fabric",
         "tensorboard", "pycocotools", "faster_coco_eval", "timm", "scipy"}
loaded = sorted(heavy & sys.modules.keys())
from torchvision.ops.roi_align import is_compile_supported
from torch._dynamo.utils import is_compile_supported as real
print(code, loaded, is_compile_supported("cpu") == real("cpu"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[-2] == "0 [] True"
