"""What a picture is asked: how many questions, in which order, about what."""

import pytest
import torch

from compress.losses.parts.icd_queries import IcdQueries, describe, draw_questions, scale_buckets
from tests.compress.losses.scene import make_batch

CLASSES = 3
BOX = [8.0, 16.0, 40.0, 48.0]


def draw(batch, most=300, **settings):
    torch.manual_seed(3)
    queries = IcdQueries.model_validate(settings)
    return draw_questions(batch, queries, most, queries.prior(CLASSES), queries.statistics(CLASSES))


@pytest.mark.parametrize(
    ("instances", "most", "expected"),
    [(0, 300, 1), (1, 300, 6), (10, 300, 60), (60, 300, 300), (60, 100, 100), (400, 300, 400)],
)
def test_five_made_up_objects_for_each_real_one_up_to_a_limit(instances, most, expected):
    assert IcdQueries().count(instances, most) == expected


def test_objects_come_first_then_negatives_then_empty_slots():
    questions = draw(make_batch([[BOX, BOX], [BOX], []], labels=[[2, 1], [0], []]), most=8)
    assert questions.real.sum(dim=1).tolist() == [2, 1, 0]
    assert questions.present.sum(dim=1).tolist() == [8, 6, 1]
    assert questions.labels[0, :2].tolist() == [2, 1]
    assert questions.most_real == 2


def test_edges_are_measured_from_a_point_near_the_middle():
    # 64 px: the box is 0.5 x 0.5, from 0.125 to 0.625 across and 0.25 to 0.75 down.
    questions = draw(make_batch([[BOX] * 50]))
    x, y = questions.centres[0, :50].unbind(1)
    left, upper, right, lower = questions.offsets[0, :50].unbind(1)
    for found, expected in ((x - left, 0.125), (y - upper, 0.25), (x + right, 0.625)):
        torch.testing.assert_close(found, torch.full((50,), expected))
    torch.testing.assert_close(y + lower, torch.full((50,), 0.75))
    # at most 0.3 of a side away from 0.375 and 0.5, and well spread
    for found, middle in ((x, 0.375), (y, 0.5)):
        assert float((found - middle).abs().max()) <= 0.15
        assert float((found - middle).min()) < -0.1
        assert float((found - middle).max()) > 0.1


def test_shares_are_of_the_pictures_own_size_and_scales_in_pixels():
    batch = make_batch([[BOX], [BOX]])
    batch = batch._replace(sizes=torch.tensor([[64, 64], [48, 40]]))
    questions = draw(batch)
    assert questions.extents[:, 0].tolist() == [[0.5, 0.5], pytest.approx([32 / 40, 32 / 48])]
    torch.testing.assert_close(questions.pixels[:, 0], torch.full((2, 2), 32.0))


def test_made_up_objects_follow_the_stated_statistics():
    statistics = ((0.1, 0.3, 0.0, 0.0), (0.2, 0.2, 0.0, 0.0), (0.9, 0.0001, 0.0, 0.0))
    questions = draw(
        make_batch([[BOX] * 20], labels=[[1] * 20]),
        class_prior=(3.0, 0.0, 1.0),
        box_statistics=statistics,
        fake_centre=(0.4, 0.6),
        jitter=0.0,
    )
    labels, extents = questions.labels[0, 20:], questions.extents[0, 20:]
    assert set(labels.tolist()) == {0, 2}
    assert 0.6 < float((labels == 0).float().mean()) < 0.9
    torch.testing.assert_close(extents[labels == 0][0], torch.tensor([0.1, 0.3]))
    torch.testing.assert_close(extents[labels == 2][0], torch.tensor([0.7, 0.002]))  # clipped
    assert ((questions.centres[0, 20:] - 0.5).abs() <= 0.1).all()


def test_without_statistics_sides_are_around_a_fifth_and_classes_alike():
    questions = draw(make_batch([[BOX] * 50]))
    fake = questions.extents[0, 50:]
    assert 0.15 < float(fake.mean()) < 0.3
    assert float(fake.min()) >= 0.002
    assert float(fake.max()) <= 0.7
    assert (torch.bincount(questions.labels[0, 50:], minlength=3) > 40).all()


def test_the_queries_of_a_picture_do_not_depend_on_the_batch():
    both = make_batch([[BOX, BOX], [BOX]])
    alone = make_batch([[BOX]])._replace(image_ids=(1,))
    one, two = draw(both), draw(alone)
    torch.testing.assert_close(one.centres[1, :6], two.centres[0, :6])
    torch.testing.assert_close(one.extents[1, :6], two.extents[0, :6])
    assert not torch.equal(one.centres[0, :6], one.centres[1, :6])


def test_an_unlabelled_picture_has_no_queries():
    questions = draw(make_batch([[BOX], []])._replace(labeled=1))
    assert questions.present.sum(dim=1).tolist() == [6, 0]


def test_a_scale_is_the_whole_part_of_about_the_binary_logarithm():
    # 1.44 ln 32 = 4.99, 1.44 ln 128 = 6.99, 1.44 ln 300 = 8.21, 1.44 ln 10000 = 13.3; less 5
    sizes = torch.tensor([1.0, 32.0, 128.0, 300.0, 10000.0])
    assert scale_buckets(sizes).tolist() == [0, 0, 1, 3, 4]


def test_a_description_holds_class_centre_and_scale():
    questions = draw(make_batch([[[0.0, 0.0, 64.0, 64.0]]], size_px=512, labels=[[2]]), jitter=0.0)
    (description,) = describe(questions, CLASSES)[0, :1]
    assert description[:3].tolist() == [0, 0, 1]
    # centre 32 / 512 = 1/16 of a turn: the first sine and cosine of x
    assert float(description[3]) == pytest.approx(0.38268, abs=1e-5)
    assert float(description[3 + 64]) == pytest.approx(0.92388, abs=1e-5)
    assert description[-10:].tolist() == [1, 0, 0, 0, 0] * 2  # 1.44 ln 64 - 5 = 0.99
