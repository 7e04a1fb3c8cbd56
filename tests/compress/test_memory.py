"""The memory that is estimated of a model before it is built."""

import json
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from compress.checks import check_models
from compress.detectors import DetectorConfig
from compress.memory import COPIES, output_bytes, step_bytes
from tests.compress.smoke import opened_smoke

CONFIG: TypeAdapter[DetectorConfig] = TypeAdapter(DetectorConfig)
BACKBONE = {"type": "slim_resnet", "stem": 16, "widths": [16, 32, 48, 64]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "least", "most"),
    [
        ({"type": "ssd"}, 0.99, 1.01),
        ({"type": "ssd", "lite": True}, 0.99, 1.01),
        ({"type": "gfl"}, 0.99, 1.01),
        ({"type": "fcos"}, 0.7, 1.4),
        ({"type": "retinanet"}, 0.5, 1.4),
        ({"type": "faster_rcnn"}, 0.7, 1.4),
    ],
    ids=str,
)
def test_the_estimate_counts_the_head_and_its_classes(family, least, most):
    size, classes = (192, 256), 60
    given = {"backbone": BACKBONE, "width": 32, **family}
    config = CONFIG.validate_json(json.dumps(given))
    detector = config.build(classes, size).eval()
    with torch.inference_mode():
        kept = output_bytes(detector, lambda: detector.candidates(torch.rand(1, 3, *size)))
    found = kept + COPIES * 4 * sum(p.numel() for p in detector.parameters())
    assert least * found < step_bytes(config, classes, size) < most * found


def test_a_large_model_is_matched_without_its_weights(tmp_path: Path) -> None:
    student, (teacher,) = check_models(
        opened_smoke(tmp_path, "student.backbone.widths=[16, 16, 32, 2048]")
    )
    assert all(weights.is_meta for weights in student.parameters())
    assert not any(weights.is_meta for weights in teacher.parameters())
    assert student.spec.channels == teacher.spec.channels
