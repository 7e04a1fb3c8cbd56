"""A sample of the drill of stores."""

from pathlib import Path

import pytest

from tests.drill.stores import CHANGES, drill


@pytest.mark.slow
def test_every_change_of_a_store_is_made_good_or_told(tmp_path: Path) -> None:
    counts = drill(tmp_path, seed=3, count=len(CHANGES))
    assert counts.broken == []
    assert counts.codes[0] > 10
