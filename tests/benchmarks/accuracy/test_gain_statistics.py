import math

import numpy as np
import pytest

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.gain_statistics import T_975, bootstrap_gain, gain_interval, verdict
from tests.benchmarks.accuracy.test_coco_map import random_case


@pytest.mark.parametrize("freedom", range(1, 30))
def test_the_quantiles_leave_two_and_a_half_percent_of_student_t(freedom):
    # x = sqrt(freedom) * tan(angle) turns the density into cos(angle) ** (freedom - 1).
    limit = math.atan(T_975[freedom - 1] / math.sqrt(freedom))
    middles = (np.arange(100_000) + 0.5) / 100_000
    inside = limit * np.mean(np.cos(middles * limit) ** (freedom - 1))
    whole = math.pi / 2 * np.mean(np.cos(middles * math.pi / 2) ** (freedom - 1))
    assert inside / whole == pytest.approx(0.95, abs=1e-6)


def test_three_seeds_by_hand():
    # Mean 2, standard deviation 1, t(2) = 4.302653: half width 4.302653 / sqrt(3) = 2.484138.
    assert gain_interval([1, 2, 3]) == pytest.approx((2 - 2.484138, 2 + 2.484138))


def test_one_seed_has_no_interval_and_proves_nothing():
    assert gain_interval([0.2]) is None
    assert verdict([0.2]) == "not proven (one seed)"


@pytest.mark.parametrize(
    ("differences", "expected"),
    [
        ([0.05, 0.06, 0.07], "proven"),
        ([-0.05, -0.06, -0.07], "worse"),
        ([0.01, 0.06, -0.02], "not proven"),
        ([0.0, 0.0], "not proven"),
    ],
)
def test_a_gain_is_proven_only_when_its_interval_lies_above_zero(differences, expected):
    assert verdict(differences) == expected


def test_more_seeds_than_the_table_has_still_get_an_interval():
    low, high = gain_interval([0.1 + 0.001 * (i % 2) for i in range(64)]) or (0, 0)
    assert 0.1 < low < high < 0.101


@pytest.mark.parametrize("differences", [[], [math.nan, 0.1]])
def test_non_finite_differences_are_refused(differences):
    with pytest.raises(ValueError, match="finite"):
        gain_interval(differences)


def test_the_bootstrap_starts_from_pycocotools_ap():
    ours, truth = random_case(0)
    theirs = ours[::2]
    expected = [coco_map(results, truth).values["AP"] or 0 for results in (ours, theirs)]
    gain = bootstrap_gain(ours, theirs, truth, samples=50)
    assert gain.ap == pytest.approx(expected[0] - expected[1], abs=1e-12)
    assert gain.ci95[0] < gain.ap < gain.ci95[1]
    assert gain == bootstrap_gain(ours, theirs, truth, samples=50)


def test_equal_detections_gain_nothing_whatever_pictures_are_drawn():
    results, truth = random_case(1)
    gain = bootstrap_gain(results, results, truth, samples=20)
    assert (gain.ap, gain.ci95) == (0, (0, 0))


def test_a_set_without_detections_has_an_ap_of_zero():
    results, truth = random_case(2)
    assert bootstrap_gain(results, [], truth, samples=5).ap == pytest.approx(
        coco_map(results, truth).values["AP"]
    )
