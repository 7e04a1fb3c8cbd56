"""`weight: auto` holds a loss at a stated ratio of the task loss, then lets go."""

import pytest
import torch

from compress.distillation.balance import Balance


def observe(balance: Balance, *pairs: tuple[float, float]) -> None:
    for task, own in pairs:
        balance.observe(torch.tensor(task), torch.tensor(own))


def test_the_factor_brings_the_loss_to_its_ratio_of_the_task_loss():
    balance = Balance(ratio=0.5, window=3)
    assert balance.factor == 1.0  # nothing seen yet
    observe(balance, (4.0, 100.0))
    assert balance.factor == pytest.approx(0.5 * 4 / 100)
    observe(balance, (2.0, 20.0))
    assert balance.factor == pytest.approx(0.5 * 6 / 120)


def test_after_the_window_it_is_frozen():
    balance = Balance(ratio=1.0, window=2)
    observe(balance, (1.0, 10.0), (1.0, 10.0))
    assert balance.frozen
    observe(balance, (1000.0, 1.0))
    assert balance.factor == pytest.approx(0.1)


def test_a_step_that_is_not_finite_is_not_counted():
    balance = Balance(ratio=1.0, window=2)
    observe(balance, (1.0, float("nan")), (1.0, 4.0))
    assert balance.factor == pytest.approx(0.25)
    assert not balance.frozen


def test_it_goes_on_from_its_state():
    balance, again = Balance(1.0, 5), Balance(1.0, 5)
    observe(balance, (3.0, 7.0), (2.0, 1.0))
    again.load_state_dict(balance.state_dict())
    for one in (balance, again):
        observe(one, (1.0, 1.0))
    assert again.factor == balance.factor
