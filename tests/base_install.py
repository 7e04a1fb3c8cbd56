"""What must hold where only `pip install slimdet` was said: `make test-base`.

A plain script, since pytest is not part of the base installation either. It runs in the project's
root, with the interpreter of an environment that has no extra.
"""

import importlib
import importlib.util
import json
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import export

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "matplotlib", "pycocotools", "tensorrt")
# Run where a detector is traced, which needs torch whatever is imported first.
ON_THE_TRAINING_SIDE = {"export.graph.to_onnx"}


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and everything that was said."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def check_that_nothing_else_is_installed() -> None:
    found = [name for name in HEAVY if importlib.util.find_spec(name)]
    assert not found, f"not a base installation: it has {found}"


def check_imports() -> None:
    names = {module.name for module in pkgutil.walk_packages(export.__path__, "export.")}
    assert {"export.engine", "export.predict", "export.build"} <= names
    for name in sorted(names - ON_THE_TRAINING_SIDE):
        importlib.import_module(name)


def check_help() -> None:
    programs = ("predict", "build", "verify", "bundle", "lint")
    for program in (
        *(f"export.{name}" for name in programs),
        "benchmarks.run",
        "benchmarks.compare",
        "compress.run",
        "compress.doctor",
    ):
        code, said = run(program, "--help")
        assert code == 0, (program, said)
        assert "usage" in said, (program, said)


def check_the_doctor_and_the_bundles_check(folder: Path) -> None:
    """Both run here, and a folder that is no bundle is refused with its own exit code."""
    code, said = run("compress.doctor")
    assert "Traceback" not in said, said
    code, said = run("export.verify", folder)
    assert code == 6, (code, said)
    assert "Traceback" not in said, said


def check_missing_packages(folder: Path) -> None:
    """Whoever asks for what is not installed is told what to install, and gets exit code 4."""
    model, picture = folder / "model.onnx", folder / "photographs" / "picture.png"
    picture.parent.mkdir()
    Image.new("RGB", (48, 32), (90, 120, 60)).save(picture)
    model.write_bytes(b"never opened")
    write_manifest(model)
    annotations = folder / "val.json"
    annotations.write_text(json.dumps(ground_truth(picture)), encoding="utf-8")
    out = folder / "out"
    quantise = ("export.build", model, "--precision", "int8", "--images", picture.parent)
    for arguments, extra in (
        (("export.predict", model, picture, "--out", out), "onnxruntime"),
        ((*quantise, "--out", out), ""),
        (("benchmarks.run", model, "--data", annotations, "--images", picture.parent), ""),
        (("benchmarks.run", model, "--data", flat_yolo(folder), "--split", "all"), ""),
        (("compress.run", "recipes/quickstart.yaml", "--check"), "train"),
    ):
        code, said = run(*arguments)
        assert code == 4, (arguments, code, said)
        assert f"pip install 'slimdet[{extra}" in said, (arguments, said)
        assert "Traceback" not in said, (arguments, said)


def write_manifest(model: Path) -> None:
    from export.artifact.manifest import write_manifest
    from tests.manifests import make_manifest

    manifest = make_manifest("gfl", (32, 32), ("cat", "dog"), category_ids=(17, 18))
    write_manifest(manifest, model.with_suffix(".json"))


def flat_yolo(folder: Path) -> Path:
    """One picture with its label file and the class names beside it."""
    home = folder / "flat"
    home.mkdir()
    Image.new("RGB", (48, 32), (90, 120, 60)).save(home / "picture.png")
    (home / "picture.txt").write_text("0 0.5 0.5 0.2 0.2\n", encoding="utf-8")
    (home / "classes.txt").write_text("cat\ndog\n", encoding="utf-8")
    return home


def ground_truth(picture: Path) -> dict[str, object]:
    """One picture with one object, as COCO has it."""
    return {
        "images": [{"id": 1, "file_name": picture.name, "width": 48, "height": 32}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 17, "bbox": [4, 4, 9, 9], "area": 81}
            | {"iscrowd": 0}
        ],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
    }


def main() -> None:
    """Check everything; the first thing that does not hold ends the script."""
    check_that_nothing_else_is_installed()
    check_imports()
    check_help()
    with tempfile.TemporaryDirectory() as folder:
        check_the_doctor_and_the_bundles_check(Path(folder))
        check_missing_packages(Path(folder))
    version = ".".join(map(str, sys.version_info[:3]))
    sys.stdout.write(f"the base installation works (Python {version})\n")


if __name__ == "__main__":
    main()
