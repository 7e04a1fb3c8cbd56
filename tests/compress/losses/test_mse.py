import torch

from compress.losses.mse import MseConfig
from tests.compress.losses.maps import map_spec, total


def test_the_mean_squared_errors_of_the_levels_are_summed():
    # Differences of 2 and 3 everywhere, whatever the size: 4 + 9.
    student = [torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2)]
    teacher = [torch.full((2, 3, 4, 4), 2.0), torch.full((2, 3, 2, 2), 3.0)]
    spec = map_spec(student)
    assert float(total(MseConfig(type="mse").build(spec, spec), student, teacher)) == 13
    assert float(total(MseConfig(type="mse", levels=1).build(spec, spec), student, teacher)) == 4
