"""Fixtures and skips for every test; a skip always says why."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

PHOTOGRAPHS = Path(
    os.environ.get("SLIMDET_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
)

# The same examples in every run, few enough for a second a test; a slow machine is no failure.
settings.register_profile(
    "slimdet", max_examples=60, deadline=None, derandomize=True, database=None
)
settings.load_profile("slimdet")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {
        "photographs": None
        if PHOTOGRAPHS.is_dir()
        else f"no photographs in {PHOTOGRAPHS} (set SLIMDET_DATA)",
        "gpu": None if torch.cuda.is_available() else "no CUDA device",
        "tensorrt": _why_no_tensorrt(),
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))


def _why_no_tensorrt() -> str | None:
    try:
        import tensorrt  # noqa: F401
    except Exception as error:
        return f"TensorRT cannot be loaded: {type(error).__name__}"
    return None if torch.cuda.is_available() else "TensorRT is here, and no CUDA device"


@pytest.fixture
def photographs() -> Path:
    return PHOTOGRAPHS


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
