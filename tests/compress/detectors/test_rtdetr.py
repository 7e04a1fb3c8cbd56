"""What only an RT-DETR does."""

from importlib.util import find_spec

import pytest
import torch

from compress.detectors.rtdetr import RtdetrConfig

pytestmark = pytest.mark.usefixtures("small_rtdetr")
CONFIG = RtdetrConfig(type="rtdetr", model="rtdetr-l")


@pytest.mark.parametrize(
    ("lr", "clip", "said"),
    [
        (1e-4, 0.1, None),
        (3e-4, 1.0, None),
        (2e-3, 0.1, "lr 0.002, clip 0.1"),
        (1e-4, None, "clip null"),
        (1e-4, 10.0, "clip 10"),
    ],
)
def test_settings_that_it_does_not_learn_with_are_advised_against(lr, clip, said):
    advice = CONFIG.advise(lr, clip)
    assert (advice is None) if said is None else (said in advice)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ultralytics") is None, reason="needs the package ultralytics")
def test_a_traced_detector_is_traced_again_and_still_runs():
    torch.manual_seed(0)
    detector = CONFIG.build(3, (64, 96)).eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        before = detector.candidates(images)

        class Graph(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.detector = detector

            def forward(self, images):
                return tuple(self.detector.candidates(images))

        for _ in range(2):
            traced = torch.export.export(Graph(), (images,), strict=False)
            again = detector.candidates(images)
            assert torch.equal(again.boxes, before.boxes)
            torch.testing.assert_close(traced.module()(images)[1], before.scores)
