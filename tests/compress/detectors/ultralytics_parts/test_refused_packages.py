"""A package that cannot be used is refused before anything is trained, with what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.detectors.ultralytics_parts.installed import is_installed
from compress.doctor import ultralytics
from compress.run import main
from tests.compress.smoke import SMOKE

ROOT = Path(__file__).resolve().parents[4]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
PAIR = ("{type: yolo, model: yolo11s}", "{type: yolo, model: yolo11n}")


def write_recipe(folder: Path, teacher: str = PAIR[0], student: str = PAIR[1]) -> Path:
    """Write a recipe whose student stands in line 12."""
    start, end = SMOKE.index("teacher:"), SMOKE.index("train: {steps")
    middle = (
        f"teacher:\n  detector: {teacher}\n  train: {{epochs: 1, batch: 4}}\n"
        f"student: {student}\ndistill: [{{type: pkd}}]\n"
    )
    path = folder / "recipe.yaml"
    path.write_text(SMOKE[:start] + middle + SMOKE[end:], encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("student", "said"),
    [
        ("{type: yolo, model: yolo11nn}", "12: student.model: there is no model 'yolo11nn'; did "),
        ("{type: yolo, model: yolov11n.pt}", "did you mean yolo11n or"),
        ("{type: yolo, model: yolo11}", "did you mean yolo11x or yolo11s or yolo11n?"),
        ("{type: yolo, model: 11}", "12: student.model: there is no model '11'"),
        ("{type: yolo}", "12: student.model: is missing"),
        ("{type: yolo, model: rtdetr-l}", "there are yolov8n, yolov8s"),
        ("{type: rtdetr, model: rtdetr-s}", "did you mean rtdetr-x or rtdetr-l?"),
        ("{type: yolo, model: yolo11n, head: one2one}", "12: student.head: yolo11n has one branch"),
        ("{type: yolo, model: yolov8s, head: one2many}", "12: student.head: yolov8s has one"),
        ("{type: yolo, model: yolo26n, head: both}", "student.head: 'both' is not one of the"),
        ("{type: yolo, model: yolo11n, width: 16}", "12: student.width: unknown key"),
        ("{type: yolo, model: yolo11n, bn_momentum: 0}", "student.bn_momentum: "),
    ],
)
def test_a_wrong_setting_is_named_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], student: str, said: str
) -> None:
    path = write_recipe(tmp_path, student=student)
    assert main([str(path), "--check", "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.startswith(f"error: {path}:")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("side", [100, 20, 48])
def test_a_side_that_is_no_multiple_of_32_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], side: int
) -> None:
    path = write_recipe(tmp_path)
    given = [str(path), f"data.image_size=[64,{side}]", "--check", "--runs", str(tmp_path / "runs")]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert "32" in error
    assert "image_size" in error
    assert error.count("\n") == 1


# Each case is a folder put first on the path, or None: then the package cannot be found. Real
# modules come last, so that no attempt before has imported them.
CASES = """
import contextlib, io, json, sys, warnings
from importlib.machinery import PathFinder
from compress.run import main
from compress.doctor import ultralytics
from compress import methods

class WithoutUltralytics:
    find_distributions = PathFinder.find_distributions
    invalidate_caches = PathFinder.invalidate_caches

    @staticmethod
    def find_spec(name, path=None, target=None):
        hidden = name.partition(".")[0] == "ultralytics"
        return None if hidden else PathFinder.find_spec(name, path, target)

def attempt(recipe):
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = main([recipe, "--check", "--runs", "runs"])
    return code, said.getvalue()

place, found = sys.meta_path.index(PathFinder), {}
warnings.simplefilter("error")
for name, folder in json.loads(sys.argv[2]).items():
    if folder is None:
        sys.meta_path[place] = WithoutUltralytics
    else:
        sys.path.insert(0, folder)
    found[name] = [*attempt(sys.argv[1]), *attempt(sys.argv[1]), ultralytics().said]
    if name in ("absent", "old"):
        methods.support.cache_clear()  # no user's package goes while the command runs
        found[name].append(methods.support("pkd")[0].works_on)
    if folder is None:
        found["quickstart"] = attempt(sys.argv[3])[0]
        sys.meta_path[place] = PathFinder
    else:
        sys.path.remove(folder)
    assert not any(one.partition(".")[0] == "ultralytics" for one in sys.modules), name
with open("found.json", "w") as file:
    json.dump(found, file)
"""
PACKAGES = {
    "old": '__version__ = "8.3.240"\nraise AssertionError("it was imported")\n',
    "next": '__version__: str = "8.5.0"\nraise AssertionError("it was imported")\n',
    "nameless": "raise AssertionError('it was imported')\n",
    "broken": '__version__ = "8.4.190"\nraise OSError("libGL.so.1: cannot open")\n',
    "unwhole": '__version__ = "8.4.190"\nimport polars_of_another_name\n',
    "moved": '__version__ = "8.4.999"\n',
}

DEFAULTS = 'DEFAULT_CFG_DICT = {"box": 1, "cls": 1, "dfl": 1}'


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Attempt the same check with one package after another in a fresh process."""
    home = tmp_path_factory.mktemp("packages")
    folders: dict[str, str | None] = {"absent": None}
    for name, content in PACKAGES.items():
        folders[name] = str(home / name)
        package = home / name / "ultralytics"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(content, encoding="utf-8")
    for file in ("nn/__init__.py", "nn/tasks.py", "utils/__init__.py", "utils/loss.py"):
        (package / file).parent.mkdir(exist_ok=True)
        (package / file).write_text(DEFAULTS, encoding="utf-8")
    if is_installed():
        folders["two"] = str(home / "two")
        for name in ("ultralytics", "ultralytics-opencv-headless"):
            info = home / "two" / f"{name.replace('-', '_')}-8.4.190.dist-info"
            info.mkdir(parents=True)
            text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 8.4.190\n"
            (info / "METADATA").write_text(text, encoding="utf-8")
    else:
        (home / "cloned" / "ultralytics" / "ultralytics").mkdir(parents=True)
        folders["cloned"] = str(home / "cloned")
    recipe, quickstart = write_recipe(home), ROOT / "recipes" / "quickstart.yaml"
    given = (str(recipe), json.dumps(folders), str(quickstart))
    command = [sys.executable, "-c", CASES, *given]
    ended = subprocess.run(command, cwd=home, env=ENVIRONMENT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert not (home / "runs").exists()
    return recipe, json.loads((home / "found.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent", "needs the Python package ultralytics, which is not installed. Install it with"),
        ("old", "ultralytics 8.3.240 is installed in "),
        ("next", "ultralytics 8.5.0 is installed in "),
        ("nameless", "__init__.py states no version; install "),
        ("broken", "cannot be imported (OSError: libGL.so.1: cannot open); repair it, or install "),
        ("unwhole", "cannot be imported (ModuleNotFoundError: No module named 'polars_of_another"),
        ("moved", "ultralytics 8.4.999 has no ultralytics.nn.tasks.parse_model; install "),
        pytest.param(
            "two",
            "ultralytics 8.4.190 and ultralytics-opencv-headless 8.4.190 are both installed and "
            "own the same files; remove both with pip uninstall ",
            marks=pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed"),
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_one_message_with_exit_code_4(
    attempts: tuple[Path, dict[str, Any]], name: str, said: str
) -> None:
    recipe, found = attempts
    code, first, again, second, *_ = found[name]
    assert (code, again) == (4, 4)
    assert first == second  # half an import leaves nothing behind
    assert str(first).startswith(f"error: {recipe}:12: student: ")
    assert said in str(first)
    assert str(first).count("\n") == 1
    assert "pip" in str(first)


@pytest.mark.slow
def test_the_doctor_says_why_without_importing(
    attempts: tuple[Path, dict[str, Any]],
) -> None:
    _, found = attempts
    assert "pip install 'slimdet[yolo]'" in str(found["absent"][4])
    assert "8.3.240 is installed" in str(found["old"][4])


@pytest.mark.slow
def test_other_families_need_no_package(attempts: tuple[Path, dict[str, Any]]) -> None:
    _, found = attempts
    assert found["quickstart"] == 0
    for name in ("absent", "old"):
        others = found[name][5]
        assert {"gfl", "retinanet"} <= set(others)
        assert not {"yolo", "rtdetr"} & set(others)


def test_the_doctor_lists_the_package_and_its_licence() -> None:
    found = ultralytics()
    assert found.state == ("ok" if is_installed() else "absent")
    if is_installed():
        assert "(AGPL-3.0)" in found.said
        assert "docs/licence.md" in found.said


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed")
def test_a_package_that_was_imported_first_is_used_with_a_warning(tmp_path: Path) -> None:
    code = """
import sys
import ultralytics
from compress.run import main
sys.exit(main([sys.argv[1], "--check", "--runs", "runs"]))
"""
    environment = {
        **ENVIRONMENT,
        "YOLO_CONFIG_DIR": str(tmp_path),
        "YOLO_OFFLINE": "true",
        "YOLO_VERBOSE": "false",
    }
    ended = subprocess.run(
        [sys.executable, "-c", code, str(write_recipe(tmp_path))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("ultralytics was imported before slimdet built its first model") == 1
    assert "recipe smoke: valid" in ended.stderr
