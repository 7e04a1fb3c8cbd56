"""Fixed views: rows of a store, and the pictures behind them."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.data.loading import training_batches, view_batches
from compress.data.schedule import Key
from compress.data.views import SetViews, Views, views_of
from tests.compress.smoke import opened_smoke

AUGMENT = "data.augment={flip: 0.5, scale: [0.8, 1.2], mosaic: 0.5, close_mosaic: 0.5}"
UNLABELED = "data.unlabeled={split: train, count: 12, rest: true}"  # 4 besides the 8 labelled ones

sizes = st.builds(
    SetViews, pictures=st.integers(1, 9), early=st.integers(1, 4), late=st.integers(0, 3)
)


@given(labeled=sizes, unlabeled=sizes)
def test_every_row_belongs_to_one_view_of_one_picture(
    labeled: SetViews, unlabeled: SetViews
) -> None:
    views = Views(0, labeled, unlabeled)
    keys = list(views.keys(range(views.rows)))
    assert [views.row(key) for key in keys] == list(range(views.rows))
    assert len({tuple(views.draw(key)) for key in keys}) == views.rows


@given(own=sizes, epoch=st.integers(0, 1000), mosaic=st.booleans())
def test_an_epoch_takes_the_next_of_the_views(own: SetViews, epoch: int, mosaic: bool) -> None:
    views = Views(7, own, SetViews(0, 1))
    key = Key(True, epoch, own.pictures - 1, mosaic)
    row = views.row(key)
    assert row < views.rows
    again = next(views.keys(range(row, row + 1)))
    assert views.draw(again) == views.draw(key)
    length = own.early if mosaic or not own.late else own.late
    assert views.row(key._replace(epoch=epoch + length)) == row


@pytest.mark.parametrize(
    ("most", "labeled", "unlabeled"),
    [
        # 8 labelled pictures, 4 a step: 2 steps an epoch; 4 unlabelled ones, 2 a step: also 2
        (1, (1, 1), (1, 1)),
        (2, (2, 2), (1, 1)),
        (100, (3, 3), (1, 1)),  # 10 steps are 5 epochs, and the third has steps of both kinds
    ],
)
def test_there_are_no_more_views_than_epochs(
    most: int, labeled: tuple[int, int], unlabeled: tuple[int, int], tmp_path: Path
) -> None:
    data = opened_smoke(tmp_path, AUGMENT, UNLABELED).data
    found = views_of(
        data,
        batch=4,
        unlabeled_batch=2,
        steps=10,
        mosaic_until=5,
        most=most,
        most_unlabeled=1,
        seed=0,
    )
    assert found.labeled == SetViews(8, *labeled)
    assert found.unlabeled == SetViews(4, *unlabeled)


def test_training_takes_the_views_that_a_teacher_was_shown(tmp_path: Path) -> None:
    data = opened_smoke(tmp_path, AUGMENT, UNLABELED).data
    views = views_of(
        data, batch=4, unlabeled_batch=2, steps=12, mosaic_until=6, most=2, most_unlabeled=2, seed=3
    )
    shown = {}
    with closing(view_batches(data, views, [range(r, r + 1) for r in range(views.rows)])) as one:
        for batch in one:
            shown[batch.rows[0]] = batch.images[0]
    assert sorted(shown) == list(range(views.rows))
    seen = set()
    for seed in (0, 1):  # the order of the pictures differs, their views do not
        stream = training_batches(
            data,
            batch=4,
            seed=seed,
            start_step=0,
            steps=12,
            unlabeled_batch=2,
            mosaic_until=6,
            views=views,
        )
        for batch in stream:
            assert len(batch.rows) == 6
            for row, image in zip(batch.rows, batch.images, strict=True):
                assert torch.equal(image, shown[row])
            seen |= set(batch.rows)
    assert seen == set(shown)


def test_without_views_a_batch_has_no_rows(tmp_path: Path) -> None:
    data = opened_smoke(tmp_path).data
    batch = next(training_batches(data, batch=4, seed=0, start_step=0, steps=1))
    assert batch.rows == ()
