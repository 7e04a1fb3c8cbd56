"""The detector as an engine: opened in another process, and left as it was found."""

import pickle

import numpy as np
import pytest

from compress.stages.torch_engine import TorchEngine
from export.artifact.manifest import InputSpec, Manifest
from tests.compress.detectors.small import EACH_FAMILY, SIZE, small_detector

pytestmark = pytest.mark.usefixtures("small_rtdetr")


def engine(family: str) -> TorchEngine:
    manifest = Manifest(
        model="student",
        family=family,
        backend="torch",
        precision="fp32",
        parameters=1,
        input=InputSpec(height=SIZE[0], width=SIZE[1]),
        classes=("a", "b", "c"),
        category_ids=(1, 2, 3),
    )
    return TorchEngine(small_detector(family), manifest)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_an_engine_that_went_to_another_process_finds_the_same(family: str) -> None:
    images = np.random.default_rng(0).random((2, 3, *SIZE), dtype=np.float32)
    here = engine(family)
    with here, pickle.loads(pickle.dumps(here)) as there:
        mine, theirs = here.candidates(images), there.candidates(images)
    assert mine.boxes.any()
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
