"""When and how much an entry of `distill` counts."""

import pytest
from pydantic import ValidationError

from compress.losses.mse import MseConfig


def path(total: int = 8, **settings: object) -> list[float]:
    config = MseConfig.model_validate({"type": "mse", **settings})
    return [config.factor_at(step, total) for step in range(total)]


def test_without_settings_it_counts_fully_from_the_first_step_to_the_last():
    assert path() == [1.0] * 8


def test_before_start_and_after_end_the_factor_is_zero():
    assert path(start=0.25, end=0.75) == [0, 0, 1, 1, 1, 1, 0, 0]


def test_warmup_rises_to_one_over_its_share_of_the_run():
    # half of 8 steps: 1/4, 2/4, 3/4, 1, and on at 1
    assert path(warmup=0.5) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


def test_linear_decay_is_one_minus_the_share_that_has_passed():
    assert path(decay="linear") == pytest.approx([1 - step / 8 for step in range(8)])
    # from start on: shares 0, 1/4, 2/4, 3/4 of the second half
    assert path(decay="linear", start=0.5)[4:] == pytest.approx([1, 0.75, 0.5, 0.25])


def test_cosine_decay_is_half_way_down_at_half_time():
    assert path(decay="cosine")[4] == pytest.approx(0.5)
    assert path(decay="cosine")[0] == 1.0


def test_up_down_doubles_over_the_first_quarter_and_then_falls_to_nothing():
    # 1, 1.5, then 2 at a quarter, down by 1/3 a step over the other six
    expected = [1, 1.5, 2, 5 / 3, 4 / 3, 1, 2 / 3, 1 / 3]
    assert path(decay="up_down") == pytest.approx(expected)


def test_a_start_beyond_the_end_is_refused():
    with pytest.raises(ValidationError, match="reach beyond end"):
        MseConfig(type="mse", start=0.5, end=0.4)
    with pytest.raises(ValidationError):
        MseConfig.model_validate({"type": "mse", "weight": "automatic"})
