"""A teacher's outputs as rows, and back."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from compress.detector import Outputs
from compress.teaching.maps.rows import (
    ABSOLUTE,
    LARGEST,
    RELATIVE,
    STORABLE,
    as_outputs,
    as_rows,
    constants,
    out_of_range,
)
from tests.compress.detectors.small import EACH_FAMILY, small_batch, small_detector


def assert_stored(found: Tensor, computed: Tensor) -> None:
    torch.testing.assert_close(found.float(), computed.float(), rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.parametrize("family", EACH_FAMILY)
def test_what_can_be_stored_comes_back_within_the_stated_tolerance(family: str) -> None:
    detector = small_detector(family).eval()
    wanted = detector.spec.provides & STORABLE
    with torch.no_grad():
        outputs = detector(small_batch(), wanted)
    rows, fixed = as_rows(outputs, wanted), constants(outputs, wanted)
    assert all(value.shape[0] == 2 and value.is_contiguous() for value in rows.values())
    again = as_outputs(rows, fixed)
    pairs = [*zip(again.features, outputs.features, strict=True)]
    if "backbone" in wanted:
        pairs += zip(again.backbone, outputs.backbone, strict=True)
    if "anchors" in wanted:
        pairs += zip(again.anchors, outputs.anchors, strict=True)
    if "dense" in wanted:
        assert again.dense is not None
        assert outputs.dense is not None
        pairs.append((again.dense.class_logits, outputs.dense.class_logits))
        assert torch.equal(again.dense.boxes, outputs.dense.boxes)
        assert torch.equal(again.dense.deltas, outputs.dense.deltas)
        assert again.dense.level_counts == outputs.dense.level_counts
        with pytest.raises(ValueError, match="no assigner"):
            again.dense.assign([])
        with pytest.raises(ValueError, match="no assigner"):
            again.dense.match([])
        if "dfl" in wanted:
            assert again.dense.dfl_logits is not None
            assert outputs.dense.dfl_logits is not None
            pairs.append((again.dense.dfl_logits, outputs.dense.dfl_logits))
    for found, computed in pairs:
        assert_stored(found, computed)


def test_only_what_is_wanted_is_stored() -> None:
    detector = small_detector("gfl").eval()
    with torch.no_grad():
        outputs = detector(small_batch(), frozenset({"features", "dense"}))
    assert {name.split(".")[0] for name in as_rows(outputs, frozenset({"features"}))} == {
        "features"
    }
    dense = as_rows(outputs, frozenset({"dense"}))
    assert dense.keys() == {"dense.class_logits", "dense.deltas", "dense.boxes"}


def test_values_beyond_float16_are_clamped_and_counted() -> None:
    maps = torch.tensor([0.0, 1e6, -1e6, 65_000.0]).reshape(1, 1, 2, 2)
    rows = as_rows(replace(Outputs(()), features=(maps,)), frozenset({"features"}))
    assert rows["features.0"].flatten().tolist() == [0.0, LARGEST, -LARGEST, 64_992.0]
    assert out_of_range(rows) == 2
