import math

import pytest
import torch

from compress.detector import Dense, Outputs, unmatched
from compress.losses.cwd import CwdConfig, class_maps
from tests.compress.losses.maps import cells, one_map
from tests.compress.losses.scene import make_batch, make_spec

LOG_3 = math.log(3)
# The teacher's 1/4 and 3/4 against the student's 1/2 and 1/2.
DIVERGENCE = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)


def test_the_divergence_has_a_weight_of_ten():
    found = one_map(CwdConfig(type="cwd"), cells(7, 7), cells(0, LOG_3))
    assert found == pytest.approx(10 * DIVERGENCE, rel=1e-5)


def test_the_square_of_the_temperature_keeps_the_gradients_size():
    config = CwdConfig(type="cwd", temperature=2.0)
    found = one_map(config, cells(7, 7), cells(0, 2 * LOG_3))
    assert found == pytest.approx(10 * 4 * DIVERGENCE, rel=1e-5)


def test_it_is_the_mean_over_pictures_and_channels():
    teacher = torch.zeros(2, 3, 1, 2)
    teacher[1, 2, 0, 1] = LOG_3
    found = one_map(CwdConfig(type="cwd"), torch.zeros(2, 3, 1, 2), teacher)
    assert found == pytest.approx(10 * DIVERGENCE / 6, rel=1e-5)


def dense(logits, counts):
    nothing = torch.zeros(*logits.shape[:2], 4)
    return Dense(logits, nothing, nothing, assign=unmatched, level_counts=counts)


def test_class_logits_are_distributed_over_the_cells_of_their_level_anchor_by_anchor():
    # Two classes; a level of 1 x 2 cells with two anchors each, and one of a single cell with two.
    teacher = torch.zeros(1, 6, 2)
    teacher[0, 3, 0] = LOG_3  # first level, second cell, second anchor, class 0
    teacher[0, 5, 1] = 9.0  # a map of a single cell is always 1 there
    maps = (torch.zeros(1, 4, 1, 2), torch.zeros(1, 4, 1, 1))
    spec = make_spec(channels=(4, 4), strides=(8, 16), num_classes=2)
    config = CwdConfig(type="cwd", source="class_logits")
    assert config.check(spec, spec) == []
    loss = config.build(spec, spec)
    terms = loss(
        Outputs(maps, dense=dense(torch.zeros(1, 6, 2), (4, 2))),
        Outputs(maps, dense=dense(teacher, (4, 2))),
        make_batch([[]]),
    )
    assert set(terms) == {"class"}
    assert float(terms["class"]) == pytest.approx(10 * DIVERGENCE / 4, rel=1e-5)


def test_class_logits_that_do_not_say_their_levels_are_refused():
    maps = [torch.zeros(1, 4, 1, 2)]
    with pytest.raises(ValueError, match="level_counts"):
        class_maps(dense(torch.zeros(1, 2, 2), ()), maps)


def test_class_logits_ask_for_equal_classes_and_places_and_maps_do_not():
    student, teacher = make_spec(), make_spec(num_classes=5, locations="two squares per cell")
    problems = CwdConfig(type="cwd", source="class_logits").check(student, teacher)
    assert len(problems) == 2
    assert "3 classes and the teacher 5" in problems[0]
    assert "'one square per cell'" in problems[1]
    assert "'two squares per cell'" in problems[1]
    features = CwdConfig(type="cwd")
    assert features.check(student, teacher) == []
    assert features.needs(student, teacher) == {"features"}
