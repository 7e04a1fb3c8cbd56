"""IKD: pictures moved against the teacher, noise on small objects, and a base method untouched."""

import copy
from dataclasses import replace
from functools import cache

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from compress.batch import Batch, Targets
from compress.detector import Outputs
from compress.detectors.small_pairs import NAMED, families, small_pair
from compress.distillation.distiller import Distiller
from compress.distillation.pairing import check_pair
from compress.distillation.teacher import LiveTeacher
from compress.losses import LossConfig
from compress.losses.ikd import diverse_input, shifted_pictures
from compress.losses.parts.classifier import ClassifierConfig
from compress.methods import loss_settings
from tests.compress.detectors.small import CLASSES, EACH_FAMILY, small_batch, small_detector, spread
from tests.compress.losses.scene import make_batch, make_outputs, make_spec

pytestmark = pytest.mark.usefixtures("small_rtdetr")
CONFIG: TypeAdapter[LossConfig] = TypeAdapter(LossConfig)
TINY = ClassifierConfig.model_validate(
    {"backbone": {"type": "slim_resnet", "widths": (16, 16, 16, 16)}, "crop": 32}
)
SMALL = [4.0, 4.0, 35.0, 36.0]  # 31 x 32 = 992 square pixels
LARGE = [4.0, 4.0, 36.0, 36.0]  # 1024


def ikd(**settings):
    return CONFIG.validate_python({"type": "ikd", "base": {"type": "defeat"}, **settings})


def built(**settings):
    return ikd(**settings).build(make_spec(), make_spec())


def towards_white(batch: Batch) -> dict[str, torch.Tensor]:
    """A task loss that rises with every pixel but the first row's, where it falls."""
    return {"a": batch.images[:, :, 1:].sum(), "b": -batch.images[:, :, :1].sum()}


def test_a_pixel_moves_uphill_by_steps_and_by_epsilon_at_most():
    batch = make_batch([[SMALL]])
    batch = batch._replace(images=torch.full((1, 3, 64, 64), 0.5))
    two, nine = (
        shifted_pictures(batch, towards_white, ikd(diversity=0, iterations=i)) for i in (2, 9)
    )
    # 2 steps of 2/255 are 4/255; 9 would be 18/255 and stop at 8/255
    assert two[0, 0, 5, 5].item() == pytest.approx(0.5 + 4 / 255)
    assert two[0, 0, 0, 5].item() == pytest.approx(0.5 - 4 / 255)
    assert nine[0, 0, 5, 5].item() == pytest.approx(0.5 + 8 / 255)
    white = batch._replace(images=torch.ones(1, 3, 64, 64))
    assert shifted_pictures(white, towards_white, ikd(diversity=0)).max() == 1


def test_a_diverse_input_carries_its_boxes_along():
    image = torch.zeros(1, 3, 64, 64)
    image[:, :, 16:32, 8:40] = 1.0
    batch = make_batch([[[8.0, 16.0, 40.0, 32.0]]])._replace(images=image)
    draw = (0.4, 0.3, 0.6, 0.2)
    smaller = diverse_input(batch, ikd(diversity=1, diversity_scale=0.5), draw)
    x1, y1, x2, y2 = smaller.targets[0].boxes[0].tolist()
    assert smaller.images.shape == image.shape
    assert 16 <= x2 - x1 < 32
    inside = smaller.images[0, 0, round(y1) + 1 : round(y2) - 1, round(x1) + 1 : round(x2) - 1]
    assert inside.min() > 0.9
    assert smaller.images.sum(dim=1).gt(2.7).sum() <= (x2 - x1 + 1) * (y2 - y1 + 1)
    assert diverse_input(batch, ikd(diversity=0), draw) is batch


def test_noise_falls_on_labelled_pictures_whose_objects_are_all_small():
    batch = make_batch([[SMALL], [SMALL, LARGE], [], []])
    batch = batch._replace(images=torch.full((4, 3, 64, 64), 0.5), labeled=3)
    noisy = built(noise_probability=1).disturb(batch)
    changed = (noisy.images != batch.images).flatten(1).any(dim=1).tolist()
    assert changed == [True, False, True, False]  # none at all counts as small; the last is unknown
    assert (noisy.images[0] - 0.5).std().item() == pytest.approx(0.08, rel=0.05)
    assert built(noise_probability=0).disturb(batch) is batch


def test_after_two_thirds_of_the_run_only_the_base_method_is_active():
    batch = make_batch([[SMALL]])
    loss = built(noise_probability=1)
    loss.at(15, 24)
    assert loss.view(batch, towards_white) is not None
    assert loss.disturb(batch) is not batch
    loss.at(16, 24)
    assert loss.view(batch, towards_white) is None
    assert loss.disturb(batch) is batch


def test_what_teaches_the_bases_own_part_alone_stays_unweighted():
    student, teacher = (make_outputs(make_spec(), 1, seed) for seed in (1, 2))
    batch = make_batch([[SMALL]])
    plain, heavy = (built(base={"type": "icd"}, weight=weight) for weight in (1, 3))
    heavy.load_state_dict(plain.state_dict())
    found = []
    for loss in (plain, heavy):
        torch.manual_seed(0)
        found.append(loss(student, teacher, batch))
    assert torch.equal(found[0]["auxiliary_box"], found[1]["auxiliary_box"])
    torch.testing.assert_close(3 * found[0]["instance"], found[1]["instance"])


def test_the_adversarial_term_is_the_squared_distance_over_the_pictures():
    spec = make_spec()
    maps = tuple(torch.zeros(2, 4, 64 // s, 64 // s, requires_grad=True) for s in spec.strides)
    other = tuple(m.detach() + 0.5 for m in maps)
    loss = built(adversarial_weight=0.01, weight=3)
    found = loss.forward_view(Outputs(maps), Outputs(other), make_batch([[], []]))["adversarial"]
    # per picture 4 channels of 64 + 16 + 4 cells at a distance of 1/2: 4 * 84 / 4 = 84
    assert found.item() == pytest.approx(3 * 0.01 * 84)


def test_the_base_methods_terms_keep_their_names_and_its_weight():
    spec = make_spec()
    student, teacher = (make_outputs(spec, 1, seed) for seed in (1, 2))
    torch.manual_seed(5)
    plain = CONFIG.validate_python({"type": "defeat"}).build(spec, spec)
    wrapped = built(base={"type": "defeat", "weight": 2.0}, weight=3)
    wrapped.base.load_state_dict(plain.state_dict())
    batch = make_batch([[SMALL]])
    own = plain(student, teacher, batch)
    for name, term in wrapped(student, teacher, batch).items():
        torch.testing.assert_close(term, 6 * own[name])


@pytest.mark.slow
@pytest.mark.parametrize("family", EACH_FAMILY)
def test_it_disturbs_a_real_teacher_and_leaves_no_gradient_in_it(family):
    teacher = small_detector(family)
    student = small_detector(family, width=32)
    objective = Distiller(student, teacher, [ikd(every=2)]).train()
    objective.at(0, 10)
    terms = objective(small_batch(labeled=1))
    assert terms["ikd/adversarial"] > 0
    sum(terms.values()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert all(p.grad.abs().sum() > 0 for p in objective.losses[0].adapters.parameters())
    measured = {term.name: term for term in objective.measure(small_batch(labeled=1))}
    assert measured["ikd/adversarial"].gradient_ratio > 0
    objective.at(1, 10)
    objective.zero_grad()
    off = objective(small_batch(labeled=1))
    assert "ikd/adversarial" not in off
    sum(off.values()).backward()  # the adapters rest, and hang on the graph all the same
    assert all(p.grad is not None for p in objective.losses[0].adapters.parameters())


@cache
def random_pair(family):
    torch.manual_seed(0)
    pair = small_pair(family)
    for detector in pair:
        spread(detector)  # else no box of a fresh head is large enough to be compared
    return pair


def suits(config, student, teacher) -> bool:
    return not check_pair(student.spec, teacher.spec, [config])


@pytest.mark.slow
@pytest.mark.parametrize("base", sorted(loss_settings().keys() - {"ikd"}))
def test_every_other_method_takes_a_training_step_as_its_base(base):
    config = ikd(base={"type": base}, iterations=1)
    # dense heads cost half of what two stages do, and a tenth of a package's models
    small_first = [family for family in reversed(families()) if family not in NAMED]
    small_first += [family for family in families() if family in NAMED]
    student, teacher = copy.deepcopy(
        next(pair for pair in map(random_pair, small_first) if suits(config, *pair))
    )
    classifier = TINY.build(CLASSES) if config.wanted_classifier() else None
    torch.manual_seed(0)
    objective = Distiller(student, teacher, [config], classifier=classifier).train()
    objective.at(400, 1000)  # past every warm-up and delayed start, and not past the changes
    own = torch.optim.SGD(objective.parameters(), lr=1e-9)
    terms = objective(small_batch((2, 1, 1)))  # RKD compares two pairs of pictures at least
    sum(terms.values()).backward()
    own.step()
    taught = {name: term for name, term in terms.items() if name.startswith("ikd/")}
    assert taught.pop("ikd/adversarial") > 0
    assert any(term > 0 for term in taught.values())
    assert all(term.isfinite() for term in terms.values())
    assert all(parameter.isfinite().all() for parameter in objective.parameters())


@pytest.mark.slow
def test_shifted_pictures_are_worse_for_the_teacher_than_noise_of_the_same_size():
    teacher = LiveTeacher(small_detector("gfl"), small_detector("gfl").spec)
    batch = small_batch()
    config = ikd(diversity=0)
    moved = shifted_pictures(batch, teacher.task_losses, config)
    noise = torch.randn_like(moved).sign() * config.epsilon

    def loss(images):
        with torch.no_grad():
            return torch.stack([*teacher.task_losses(batch._replace(images=images)).values()]).sum()

    assert (moved - batch.images).abs().max() <= config.epsilon + 1e-6
    assert loss(moved) > loss((batch.images + noise).clamp(0, 1))


def test_a_teacher_without_a_task_loss_or_with_other_classes_is_refused():
    student = make_spec()
    without = make_spec(provides=frozenset({"features"}))
    assert ikd().check(student, student) == []
    assert "task loss" in ikd().check(student, without)[0]
    strangers = replace(student, classes=("x", "y", "z"))
    known = replace(student, classes=("a", "b", "c"))
    feature_only = ikd(base={"type": "defeat", "roi_object_weight": 0, "roi_background_weight": 0})
    (problem,) = feature_only.check(known, strangers)
    assert problem.startswith("adversarial pictures: class scores are compared")
    quiet = feature_only.model_copy(update={"adversarial_weight": 0.0})
    assert quiet.check(known, strangers) == []


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ({"type": "ikd", "base": {"type": "gid"}}, "does not match any of the expected tags"),
        ({"type": "gid", "weight": "auto"}, "give weight: auto beside it"),
        ({"type": "gid", "end": 0.5}, "give end beside it"),
    ],
)
def test_a_base_is_another_method_on_the_schedule_of_the_whole(base, said):
    with pytest.raises(ValidationError, match=said):
        ikd(base=base)


def test_unlabelled_pictures_are_not_shifted():
    batch = make_batch([[SMALL], []])
    batch = batch._replace(
        labeled=1,
        targets=(batch.targets[0], Targets(torch.zeros(0, 4), torch.zeros(0).long())),
    )
    view = built().view(batch, towards_white)
    assert view.images.shape[0] == 1
    assert built().view(batch._replace(labeled=0), towards_white) is None
