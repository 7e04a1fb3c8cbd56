"""Importing the package and building its models changes nothing but modules and random numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress.detectors.ultralytics_parts.installed import is_installed

ROOT = Path(__file__).resolve().parents[4]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed"),
]

# Written to the file of the first argument: the state before and after, and what was done between.
WATCHED = """
import json, logging, os, signal, sys, tempfile, threading, warnings
import numpy as np
import torch
from PIL import Image
from compress.detectors.ultralytics_parts import package

done, watching = [], False

def watch(event, arguments):
    if not watching:
        return
    if event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        done.append(("write" if writes else "read", str(path)))
    elif event.startswith(("socket.", "subprocess.", "urllib.", "os.exec", "os.fork", "os.system")):
        done.append((event, str(arguments)))
    elif event in ("os.mkdir", "os.rename", "os.remove", "os.symlink"):
        done.append(("write", str(arguments[0])))

def state():
    print_options = vars(torch._tensor_str.PRINT_OPTS)
    return {
        "environment": dict(os.environ),
        "warnings": [str(one) for one in warnings.filters],
        "torch.save": f"{torch.save.__module__} {id(torch.save)}",
        "Image.open": f"{Image.open.__module__} {id(Image.open)}",
        "torch.load": id(torch.load),
        "torch's printing": {name: str(value) for name, value in print_options.items()},
        "numpy's printing": {name: str(value) for name, value in np.get_printoptions().items()},
        "threads of torch": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "threads": sorted(one.name for one in threading.enumerate()),
        "default type": str(torch.get_default_dtype()),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "safe classes": len(torch.serialization.get_safe_globals()),
        "numpy's random numbers": int(np.random.get_state()[1].sum()),
        "streams": [id(sys.stdout), id(sys.stderr), id(sys.excepthook), id(sys.displayhook)],
        "finders": [str(one) for one in sys.meta_path],
        "path": sys.path[:],
        "folder": os.getcwd(),
        "signals": {str(one): str(signal.getsignal(one)) for one in signal.valid_signals()},
        "root logger": [logging.root.level, str(logging.root.handlers)],
        "temporary files": sorted(os.listdir(tempfile.gettempdir())),
        "OpenCV": sys.modules["cv2"].getNumThreads() if "cv2" in sys.modules else None,
    }

if OPENCV:
    import cv2
    cv2.setNumThreads(2)
sys.addaudithook(watch)
states = {"before": state()}
watching, random = True, torch.get_rng_state()
package.load_package()
states["imported"] = state()
same_numbers = torch.equal(random, torch.get_rng_state())
for model in ("yolov8n", "yolo11n", "yolo26n", "rtdetr-l"):
    package.build_network(model, 3, 0.1)
watching = False
states["built"] = state()
log = logging.getLogger("ultralytics")
log.info("a word"), log.warning("a word")
found = {
    "states": states,
    "done": done,
    "same_numbers": same_numbers,
    "streams": [str(getattr(one, "stream", "")) for one in log.handlers],
}
with open(sys.argv[1], "w") as file:
    json.dump(found, file)
log.error("an error of the package")
"""


class Watched:
    """What a fresh process did while it imported the package and built four models."""

    def __init__(self, folder: Path, home: Path, opencv: bool = False) -> None:
        self.work, self.home, self.temporary = folder / "work", home, folder / "temporary"
        for made in (self.work, self.temporary):
            made.mkdir(parents=True)
        for name in ("yolo11n.yaml", "yolo11.yaml", "yolov8.yaml", "rtdetr-l.yaml"):
            (self.work / name).write_text("nc: [", encoding="utf-8")
        self.before = sorted(self.work.iterdir())
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": str(home),
            "TMPDIR": str(self.temporary),
            "YOLO_VERBOSE": "true",  # a user's own setting: it comes back, and has no effect
        }
        self.ended = subprocess.run(
            [
                sys.executable,
                "-c",
                WATCHED.replace("OPENCV", str(opencv)),
                str(folder / "found.json"),
            ],
            cwd=self.work,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert self.ended.returncode == 0, self.ended.stderr
        self.found: dict[str, Any] = json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    folder = tmp_path_factory.mktemp("effects")
    home = folder / "home"
    home.mkdir()
    return Watched(folder, home)


def test_the_process_is_as_before(watched: Watched) -> None:
    before, *later = watched.found["states"].values()
    assert before["environment"]["YOLO_VERBOSE"] == "true"
    for state in later:
        opencv = state.pop("OpenCV")
        assert opencv is None or opencv > 0  # 0: its threads were taken from everybody
        for name, value in state.items():
            assert value == before[name], name


def test_nothing_is_left_on_the_disk(watched: Watched) -> None:
    assert list(watched.home.iterdir()) == []
    assert sorted(watched.work.iterdir()) == watched.before
    written = {path for kind, path in watched.found["done"] if kind == "write"}
    outside = {path for path in written if Path(path).is_absolute()}
    assert written  # its settings, which go into a temporary folder
    assert all(path.startswith(str(watched.temporary)) for path in outside), outside


def test_no_socket_is_opened_and_no_program_started(watched: Watched) -> None:
    others = [one for one in watched.found["done"] if one[0] not in ("read", "write")]
    assert others == []


def test_descriptions_in_the_working_folder_are_not_read(watched: Watched) -> None:
    read = {Path(path).resolve() for kind, path in watched.found["done"] if kind == "read"}
    assert {path.name for path in read} >= {"yolo11.yaml", "yolov8.yaml", "rtdetr-l.yaml"}
    assert not any(path.is_relative_to(watched.work) for path in read)


def test_nothing_is_printed_and_standard_output_stays_free(watched: Watched) -> None:
    assert watched.ended.stdout == ""
    assert watched.ended.stderr == "an error of the package\n"  # by the root logger
    assert watched.found["streams"] == []


def test_importing_draws_no_random_number(watched: Watched) -> None:
    assert watched.found["same_numbers"]


def test_a_home_that_cannot_be_written_and_an_opencv_in_use_are_no_hindrance(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.write_text("no folder", encoding="utf-8")  # root may write into any folder
    found = Watched(tmp_path, home, opencv=True)
    assert found.ended.stdout == ""
    states = found.found["states"].values()
    assert [state["OpenCV"] for state in states] == [2, 2, 2]
