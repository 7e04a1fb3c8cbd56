"""Fixtures and skips for every test; a skip always says why."""

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings

# One thread per process: a worker per core runs beside this one, and the tensors are small. Read
# when torch and NumPy are first imported; processes that tests start inherit it. Torch itself is
# imported where it is needed: the process that hands tests to the workers needs none of it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PHOTOGRAPHS = Path(
    os.environ.get("SLIMDET_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)

# The same examples in every run, few enough for a second a test; a slow machine is no failure.
settings.register_profile(
    "slimdet", max_examples=60, deadline=None, derandomize=True, database=None
)
settings.load_profile("slimdet")

# Imports make a million objects that live to the end. Searching them for garbage, again and again
# while they are imported and then in every test, takes a quarter of the time of the quick tests.
gc.disable()


def pytest_collection_finish() -> None:
    """Exempt what the imports have made from garbage collection, which begins here."""
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons: dict[str, Callable[[], str | None]] = {
        "photographs": _why_no_photographs,
        "gpu": _why_no_gpu,
        "tensorrt": _why_no_tensorrt,
    }
    for mark, why in reasons.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        reason = why() if marked else None
        if reason is None:
            continue
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_no_photographs() -> str | None:
    if PHOTOGRAPHS.is_dir():
        return None
    return f"no photographs in {PHOTOGRAPHS} (set SLIMDET_DATA)"


def _why_no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def _why_no_tensorrt() -> str | None:
    try:
        import tensorrt  # noqa: F401
    except Exception as error:
        return f"TensorRT cannot be loaded: {type(error).__name__}"
    return None if _why_no_gpu() is None else "TensorRT is here, and no CUDA device"


@pytest.fixture
def photographs() -> Path:
    return PHOTOGRAPHS


@pytest.fixture
def foreground() -> Iterator[None]:
    """Signals as in a terminal: a shell ignores SIGINT for its background jobs, nohup SIGHUP."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hangup)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Carry out the smoke recipe with `WHOLE` once for all test processes, which only read it.

    The folder has `recipe.yaml`, the run in `runs/smoke` and what the command printed in
    `said.json`.
    """
    from tests.compress.smoke import make_finished

    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with FileLock(f"{folder}.lock"):
        if not (folder / "said.json").exists():  # written last
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make_finished(folder)
    return folder


@pytest.fixture(scope="module")
def small_rtdetr() -> Iterator[None]:
    """Build every RT-DETR of a module's tests with fewer weights."""
    from tests.compress.detectors.small_rtdetr import small_description

    with small_description():
        yield


@pytest.fixture(autouse=True)
def _afresh() -> None:
    """Begin with the same random numbers, and with the subnormals that a run turns off."""
    torch = sys.modules.get("torch")  # without it there is nothing to set yet
    if torch is not None:
        # of the CPU alone: torch.manual_seed keeps a traceback for a GPU, 1 ms in each test
        torch.default_generator.manual_seed(0)
        torch.set_flush_denormal(False)
