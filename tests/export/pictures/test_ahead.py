"""Pictures that threads decode: in order, ahead, and no further than is asked for."""

import threading

import pytest

from export.pictures.ahead import decoded_ahead


def test_groups_come_in_order_and_the_last_is_smaller() -> None:
    found = list(decoded_ahead([5, 3, 8, 1, 9], 2, str))
    assert found == [([5, 3], ["5", "3"]), ([8, 1], ["8", "1"]), ([9], ["9"])]
    assert list(decoded_ahead([], 2, str)) == []


def test_the_next_group_is_decoded_while_one_is_in_use() -> None:
    decoded = {index: threading.Event() for index in range(4)}

    def decode(index: int) -> int:
        decoded[index].set()
        return index

    groups = decoded_ahead(range(4), 2, decode)
    next(groups)
    assert all(decoded[index].wait(10) for index in (2, 3))
    groups.close()


def test_what_is_no_longer_needed_is_not_decoded() -> None:
    asked: list[int] = []
    groups = decoded_ahead(range(10_000), 1, asked.append)
    next(groups)
    groups.close()
    assert len(asked) < 100


def test_an_error_is_raised_at_its_group() -> None:
    groups = decoded_ahead([4, 0], 1, lambda index: 8 // index)
    assert next(groups) == ([4], [2])
    with pytest.raises(ZeroDivisionError):
        next(groups)
