"""Terms on RoIs are computed where both detectors have RoIs, or where a weight asks for them."""

import pytest

from compress.losses.defeat import DeFeatConfig
from compress.losses.parts.loss import LossSection
from compress.losses.tadf import TadfConfig
from tests.compress.losses.scene import make_spec


@pytest.mark.parametrize(
    ("usual", "off", "on"),
    [
        (
            DeFeatConfig(type="defeat"),
            DeFeatConfig(type="defeat", roi_object_weight=0, roi_background_weight=0),
            DeFeatConfig(type="defeat", roi_object_weight=1),
        ),
        (
            TadfConfig(type="tadf"),
            TadfConfig(type="tadf", class_weight=0, box_weight=0),
            TadfConfig(type="tadf", box_weight=1),
        ),
    ],
    ids=["defeat", "tadf"],
)
def test_they_are_off_unless_both_detectors_have_rois(
    usual: LossSection, off: LossSection, on: LossSection
) -> None:
    whole, without = make_spec(), make_spec(provides=frozenset({"features"}))
    assert usual.needs(whole, whole) == {"features", "rois"}
    assert usual.needs(without, whole) == {"features"}
    assert off.needs(whole, whole) == {"features"}
    assert on.needs(without, without) == {"features", "rois"}
