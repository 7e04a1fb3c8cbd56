"""Every command that a document shows is run: as it stands, as `--check`, or as `--help`.

A command of a kind that `outcome` does not know fails its test, so that a new one gets a rule.
"""

import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from packaging.requirements import Requirement

from benchmarks.data.division import keep_division
from compress.data.config import FolderConfig
from compress.recipe import load_recipe
from slimdet.__main__ import main as slimdet
from tests.benchmarks.data.tiny import coco, picture, write_coco, write_coco_root
from tests.documents.blocks import Command, blocks, documented

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "tutorial.md"),
    *sorted((ROOT / "recipes").glob("*.yaml")),
    *sorted((ROOT / "benchmarks" / "gain").glob("*.yaml")),
]
COMMANDS = documented(ROOT, DOCUMENTS)
pytestmark = pytest.mark.slow

MADE = ROOT / "tests" / "compress" / "made_before"

Main = Callable[[Sequence[str]], int]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the documents' commands name."""
    here = tmp_path_factory.mktemp("documented")
    shutil.copytree(ROOT / "recipes", here / "recipes")
    shutil.copytree(ROOT / "benchmarks" / "gain", here / "benchmarks" / "gain")
    shutil.copy(ROOT / "constraints.txt", here)
    for block in blocks((ROOT / "README.md").read_text(encoding="utf-8")):
        if block.language == "yaml":
            (here / "my.yaml").write_text(block.text, encoding="utf-8")
    write_coco_root(here / "path" / "to" / "dataset", train=16)
    for number in range(2):
        picture(here / "photos" / f"{number}.jpg", 80, 60, 90 + number)
    with tarfile.open(MADE / "bundle.tar.gz") as archive:
        archive.extractall(here, filter="data")
    for file in (here / "bundle" / "models" / "seed0-student-fp32").iterdir():
        shutil.copy(file, here)
    document = coco(8, ids=(1, 2))
    document["categories"] = [
        {"id": number, "name": name}
        for number, name in enumerate((here / "bundle" / "labels.txt").read_text().split(), 1)
    ]
    write_coco(here, "val", document)
    write_divided(here / "pictures", here / "runs" / "cells" / "split.json", document)
    report = json.loads(
        (ROOT / "benchmarks" / "results" / "run_bccd_retinanet_few.json").read_bytes()
    )
    for row in report["rows"]:
        row["verdict"] = "valid"  # it was noisy, which no gate accepts
    for name in ("before", "after", "runs/before", "runs/after"):
        (here / name).mkdir(parents=True)
        (here / name / "report.json").write_text(json.dumps(report))
    return here


def write_divided(root: Path, record: Path, document: dict[str, Any]) -> None:
    """One COCO file without splits, and the record of how a run divided it."""
    write_coco(root, "all", document)
    settings = {"root": root, "image_size": 64, "split": {"val": 0.5}}
    division = FolderConfig.model_validate(settings).open().division
    assert division is not None
    record.parent.mkdir(parents=True)
    keep_division(division, record)


def module_main(name: str) -> Main:
    main: Main = importlib.import_module(name).main
    return main


def exit_code(main: Main, arguments: Sequence[str]) -> int:
    try:
        return main(list(arguments))
    except SystemExit as end:
        return int(end.code or 0)


def checked_recipe(main: Main, arguments: Sequence[str], *check: str) -> int:
    """Load the recipe with its overrides; check it where the data set is the placeholder."""
    recipe, overrides = arguments[0], [a for a in arguments[1:] if "=" in a]
    if "path/to/dataset" in " ".join(arguments):
        return exit_code(main, [*arguments, *check])
    load_recipe(Path(recipe), overrides)
    return 0


def helps(main: Main, arguments: Sequence[str], shown: Callable[[], str]) -> int:
    """Ask for help; each option of the command must be in it."""
    code = exit_code(main, ["--help"])
    text = shown()
    missing = [a for a in arguments if a.startswith("--") and a.partition("=")[0] not in text]
    assert not missing, f"no such option: {missing}"
    return code


def installed(words: Sequence[str]) -> int:
    """Hold a `pip install` to the extras and files that exist; nothing is downloaded."""
    extras = set(metadata("slimdet").get_all("Provides-Extra") or ())
    rest = iter(words)
    for word in rest:
        if word == "-c":
            assert Path(next(rest)).is_file()
        elif word in {"-e", "--quiet"}:
            continue
        else:
            requirement = Requirement(word.replace(".[", "slimdet[", 1))
            assert requirement.name == "slimdet"
            unknown = requirement.extras - extras
            assert not unknown, f"no such extra: {unknown}"
    return 0


def outcome(words: Sequence[str], shown: Callable[[], str]) -> int:
    """Run one command in the current folder; return its exit code."""
    program = words[0].removeprefix(".venv/bin/")
    rest = list(words[1:])
    if program == "make":
        return subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True).returncode
    if program == "pip" and rest[0] == "install":
        return installed(rest[1:])
    if program == "python3" and rest[:2] == ["-m", "venv"]:
        made = [sys.executable, "-m", "venv", "--without-pip", *rest[2:]]
        return subprocess.run(made, capture_output=True).returncode
    if program == "torchrun":
        after = rest.index("-m")
        return checked_recipe(module_main(rest[after + 1]), rest[after + 2 :], "--check")
    main: Main
    if program == "slimdet":
        command, arguments, main = rest[0], rest[1:], partial(with_command, rest[0])
    elif program == "python" and rest[0] == "-m":
        command, arguments, main = rest[1], rest[2:], module_main(rest[1])
    else:
        pytest.fail(f"no rule for {program}: add one here")
    if command in {"run", "check", "compress.run"}:
        return checked_recipe(main, arguments, *([] if command == "check" else ["--check"]))
    # tests/slimdet/test_best_pt.py runs those on a best.pt, which another package writes
    of_pt = any(word.endswith(".pt") or word.startswith("cells-") for word in arguments)
    if command.startswith("benchmarks.studies") or of_pt or "--write" in arguments:
        return helps(main, arguments, shown)
    if command in {"build", "export.build"} and "tensorrt" in arguments:
        code = exit_code(main, arguments)
        return 0 if code == 4 and importlib.util.find_spec("tensorrt") is None else code
    if command in {"bench", "benchmarks.run"}:
        arguments += ["--repeats", "1"]
    return exit_code(main, arguments)


def with_command(command: str, arguments: Sequence[str]) -> int:
    return slimdet([command, *arguments])


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_documented_command_works(
    command: Command,
    prepared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(prepared)
    monkeypatch.setattr("compress.doctor.free_bytes", lambda _: 60 * 10**9)

    def shown() -> str:
        return capsys.readouterr().out

    assert outcome(command.words, shown) == 0


PYTHON = [
    pytest.param(block.text, id=f"{path.name}-{number}")
    for path in DOCUMENTS
    if path.suffix == ".md" and path.name != "CONTRIBUTING.md"  # its classes are sketches
    for number, block in enumerate(blocks(path.read_text(encoding="utf-8")))
    if block.language == "python"
]


@pytest.mark.parametrize("text", PYTHON)
def test_a_documented_piece_of_python_works(
    text: str, prepared: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The finished run is `runs/quickstart`, and that of the documents' `recipe.yaml`."""
    monkeypatch.chdir(prepared)
    run = finished_run / "runs" / "smoke"
    for name in ("quickstart", "smoke"):
        shutil.copytree(run, prepared / "runs" / name, dirs_exist_ok=True)
    shutil.copy(run / "recipe.yaml", prepared)
    exec(compile(text, "document", "exec"), {"__name__": "__main__"})


def test_the_documents_show_commands() -> None:
    named = {command.document for command in COMMANDS}
    assert {"README.md", "docs/device.md", "docs/results.md", "docs/report.md"} <= named
    assert len(COMMANDS) > 30


def test_a_command_without_a_rule_fails(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(prepared)
    with pytest.raises(pytest.fail.Exception, match="no rule"):
        outcome(["convert", "model.onnx"], str)


def test_the_commands_of_a_bundle_work(prepared: Path, tmp_path: Path) -> None:
    """The bundle's own README: verify.py as it stands, the script as far as a shell reads it."""
    from export.artifact.manifest import read_manifest
    from export.backends import BACKENDS
    from export.bundles.text import readme
    from export.bundles.wheel import wheel

    bundle = tmp_path / "bundle"
    shutil.copytree(prepared / "bundle", bundle)
    name, content = wheel() or ("", b"")
    (bundle / name).write_bytes(content)
    manifest = read_manifest(bundle / "models" / "seed0-student-fp32" / "model.json")
    packages = [backend.packages for backend in BACKENDS.values()]
    requirements = BACKENDS["onnxruntime"].requirements()
    models = [("seed0-student-fp32", manifest, "any machine")]
    text = readme("smoke", models, packages, name, requirements)
    lines = [c for b in blocks(text) if b.language == "sh" for c in b.text.splitlines()]
    shown = {re.split(r"\s+#", line)[0].strip() for line in lines}
    verify = subprocess.run([sys.executable, "verify.py"], cwd=bundle, capture_output=True)
    script = subprocess.run(["sh", "-n", "build_engines.sh"], cwd=bundle, capture_output=True)
    picture(bundle / "photographs" / "0.jpg", 80, 60)

    def install(path: Path) -> int:
        """Install the wheel alone, since no package is fetched here, and predict with it."""
        pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target"]
        site = tmp_path / "site"
        subprocess.run([*pip, str(site), str(path)], check=True, capture_output=True)
        code = (
            "import sys; sys.path.insert(0, sys.argv.pop(1)); import slimdet.__main__ as m; "
            "assert m.__file__.startswith(sys.path[0]); sys.exit(m.main(sys.argv[1:]))"
        )
        words = [str(site), "predict", str(bundle), str(bundle / "photographs"), "--out"]
        words.append(str(tmp_path / "boxes"))
        done = subprocess.run([sys.executable, "-I", "-c", code, *words], capture_output=True)
        assert (tmp_path / "boxes" / "predictions.json").is_file(), done.stderr
        return done.returncode

    predict = ["predict", str(bundle), str(bundle / "photographs"), "--draw", "--out"]
    known = {
        "python verify.py": verify.returncode,
        "./build_engines.sh": script.returncode,
        f"pip install ./{name} 'onnxruntime=={onnxruntime.__version__}'": install(bundle / name),
        f"pip install ./{name} 'onnxruntime-gpu=={onnxruntime.__version__}'": 0,
        "slimdet predict . photographs/ --draw --out seen": slimdet(
            [*predict, str(bundle / "seen")]
        ),
    }
    assert shown == known.keys()
    assert set(known.values()) == {0}
