import json

import pytest
from pydantic import ValidationError

from compress.detectors.parts.settings import (
    check_input_size,
    choose_anchor_scale,
    choose_strides,
    map_sizes,
)
from export.errors import RecipeError
from tests.compress.detectors.small import CONFIG, small_detector

GFL = {"type": "gfl", "backbone": "resnet18"}


@pytest.mark.parametrize(
    ("size", "finest", "coarsest", "strides"),
    [
        ((128, 128), 8, 128, (8, 16, 32)),
        ((640, 640), 8, 128, (8, 16, 32, 64, 128)),  # 5 cells of 128 px
        ((256, 320), 8, 128, (8, 16, 32, 64)),
        ((128, 128), 4, 64, (4, 8, 16, 32)),
        ((800, 1344), 4, 64, (4, 8, 16, 32, 64)),
        ((32, 32), 8, 128, (8,)),
    ],
)
def test_levels_are_kept_while_their_map_has_four_cells(size, finest, coarsest, strides):
    assert choose_strides(size, finest, coarsest) == strides


def test_anchors_grow_from_4_strides_at_160_px_to_8_at_640_px():
    assert choose_anchor_scale((128, 128)) == 4
    assert choose_anchor_scale((160, 640)) == 4
    assert choose_anchor_scale((320, 400)) == pytest.approx(8 * 0.5**0.5)
    assert choose_anchor_scale((800, 1344)) == 8


def test_maps_are_rounded_up():
    assert map_sizes((96, 64), (32, 64)) == [(3, 2), (2, 1)]


def test_an_input_size_that_no_pyramid_fits_is_refused():
    with pytest.raises(RecipeError, match=r"100x128.*multiple of 32"):
        check_input_size((100, 128))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"strides": [8, 32]}, "double up"),
        ({"strides": [64, 128]}, "must start at"),
        ({"strides": []}, "at least 1 item"),
        ({"backbone": "resnet19"}, "did you mean resnet"),
        ({"backbone": "timm/resnet18", "norm": "group"}, "timm backbone"),
        ({"backbone_weights": "timm"}, "timm has no weights"),
        ({"backbone": {"type": "slim_resnet"}, "backbone_weights": "torchvision"}, "torchvision"),
        ({"head_wdth": 3}, "Extra inputs"),
        ({"type": "gfll"}, "'gfl'"),
    ],
)
def test_a_mistake_is_named(change, message):
    with pytest.raises(ValidationError, match=message):
        CONFIG.validate_json(json.dumps({**GFL, **change}))


def test_a_wrong_backbone_is_one_error_at_its_own_key():
    with pytest.raises(ValidationError) as caught:
        CONFIG.validate_json(json.dumps({**GFL, "backbone": "resnet19"}))
    assert [error["loc"][:2] for error in caught.value.errors()] == [("gfl", "backbone")]


def test_a_slim_resnet_reads_from_a_recipe():
    text = json.dumps({**GFL, "backbone": {"type": "slim_resnet", "widths": [16, 16, 32, 64]}})
    assert CONFIG.validate_json(text).backbone.widths == (16, 16, 32, 64)


def test_the_students_of_the_notes_have_the_sizes_of_the_notes():
    # notes: nano 0.155M with one tower of two convolutions per output, mid 3.43M
    nano = small_detector(
        "gfl",
        (128, 128),
        backbone=CONFIG.validate_python({**GFL, "backbone": {"type": "slim_resnet"}}).backbone,
        width=32,
        head_width=32,
        head_depth=2,
        reg_max=8,
    )
    assert nano.spec.strides == (8, 16, 32)
    assert sum(p.numel() for p in nano.parameters()) == pytest.approx(0.155e6, rel=0.25)


@pytest.mark.parametrize("strides", [(8, 16), (16, 32, 64), (8, 16, 32, 64, 128)])
def test_a_pyramid_may_end_before_the_backbone_or_go_beyond_it(strides):
    detector = small_detector("retinanet", (128, 128), strides=strides)
    assert detector.spec.strides == strides
    assert detector.backbone.strides == tuple(s for s in strides if s <= 32)
