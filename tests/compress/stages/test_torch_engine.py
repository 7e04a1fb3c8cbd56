"""The detector as an engine: opened in another process, and left as it was found."""

import pickle

import numpy as np
import pytest

from compress.stages.torch_engine import TorchEngine
from tests.compress.detectors.small import EACH_FAMILY, SIZE, small_detector
from tests.manifests import make_manifest

pytestmark = pytest.mark.usefixtures("small_rtdetr")


def engine(family: str) -> TorchEngine:
    manifest = make_manifest(family, SIZE, "abc", backend="torch")
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
