import pytest
import torch

from compress.losses.rkd import RkdConfig
from tests.compress.losses.maps import map_spec, one_map, total

PLAIN = RkdConfig(type="rkd", normalize=False)


def on_a_line(*values):
    """One picture per value, which is the mean of its map of two cells."""
    middle = torch.tensor(values)[:, None, None, None]
    return torch.cat([middle - 1, middle + 1], dim=3)


def test_distances_between_the_pictures_means_are_compared():
    # Student 0, 1, 3: distances 1, 3, 2 over their mean 2. Teacher 0, 2, 3: 2, 3, 1 over 2. The
    # pairs differ by 0.5, 0, 0.5: 0.125 each, twice each, over 9 entries, times 25.
    found = one_map(PLAIN, on_a_line(0.0, 1.0, 3.0), on_a_line(0.0, 2.0, 3.0))
    assert found == pytest.approx(25 * 4 * 0.125 / 9, rel=1e-5)


def test_differences_above_one_count_linearly():
    # Student 0, 0, 0, 1: over their mean 1/2 the last is 2 from the others, which are 0 apart.
    # Teacher 0, 3, 6, 3: distances 3, 6, 3 of the first three, 3, 0, 3 of the last; mean 3. All six
    # pairs differ, four by 1 and two by 2: 4 * 0.5 + 2 * 1.5, twice, over 16 entries, times 25.
    found = one_map(PLAIN, on_a_line(0.0, 0.0, 0.0, 1.0), on_a_line(0.0, 3.0, 6.0, 3.0))
    assert found == pytest.approx(25 * 2 * 5 / 16, rel=1e-4)


def test_by_default_only_the_directions_of_the_means_count():
    teacher = torch.randn(3, 4, 2, 2)
    lengths = torch.tensor([0.5, 3.0, 20.0])[:, None, None, None]
    assert one_map(RkdConfig(type="rkd"), teacher * lengths, teacher) == pytest.approx(0, abs=1e-6)
    assert one_map(PLAIN, teacher * lengths, teacher) > 0.1


def test_two_pictures_give_a_loss_of_zero():
    # It is its own mean, so both sides have the relative distance 1.
    assert one_map(PLAIN, on_a_line(0.0, 1.0), on_a_line(0.0, 50.0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("pictures", [1, 3], ids=["a single picture", "pictures that coincide"])
def test_no_distance_gives_no_infinite_gradient(pictures):
    student = torch.ones(pictures, 2, 2, 2, requires_grad=True)
    teacher = torch.randn(pictures, 2, 2, 2)
    spec = map_spec([teacher])
    for config in (PLAIN, RkdConfig(type="rkd")):
        value = total(config.build(spec, spec), [student], [teacher])
        value.backward()
        assert value.isfinite()
        assert student.grad is not None
        assert student.grad.isfinite().all()
