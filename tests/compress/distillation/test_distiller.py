"""The distiller: who provides what, the same proposals for both, and a teacher left alone."""

import copy
from dataclasses import replace
from functools import partial
from typing import Literal

import pytest
import torch
from pydantic import TypeAdapter

from compress.batch import Batch, Targets, full_size
from compress.detector import Detector
from compress.detectors.faster_rcnn import FasterRcnnConfig
from compress.detectors.gfl import GflConfig
from compress.distillation.distiller import Distiller, advice
from compress.distillation.pairing import check_pair
from compress.distillation.teacher import LiveTeacher
from compress.losses import LossConfig
from compress.losses.defeat import DeFeatConfig
from compress.losses.gid import GidConfig
from compress.losses.icd import IcdConfig
from compress.losses.kl import KlConfig
from compress.parts.weights import weights_hash
from compress.training.objective import Term

RECIPE: TypeAdapter[LossConfig] = TypeAdapter(LossConfig)
KL = partial(KlConfig, type="kl")
SLIM = {"type": "slim_resnet", "widths": (16, 16, 16, 16)}


def gfl(strides: tuple[int, ...] = (8, 16), classes: int = 2) -> Detector:
    settings = {"type": "gfl", "backbone": SLIM, "width": 16, "head_depth": 1, "reg_max": 4}
    return GflConfig.model_validate({**settings, "strides": strides}).build(classes, (64, 64))


def faster_rcnn(classes: int = 2) -> Detector:
    settings = {"type": "faster_rcnn", "backbone": SLIM, "width": 16, "head_width": 16}
    return FasterRcnnConfig.model_validate({**settings, "strides": (8, 16)}).build(
        classes, (64, 64)
    )


def batch(labeled: int = 2) -> Batch:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    target = Targets(torch.tensor([[8.0, 8.0, 40.0, 44.0]]), torch.tensor([1]))
    return Batch(images, (target, target), full_size(images), (7, 8), labeled)


def test_terms_carry_the_name_of_their_loss_and_sum_what_the_student_learns_from() -> None:
    losses = [DeFeatConfig(type="defeat"), GidConfig(type="gid", min_size_px=2.0)]
    terms = Distiller(gfl(), gfl(), losses).train()(batch())
    assert {n.partition("/")[0] for n in terms} == {"task", "defeat", "gid"}
    assert all(t.isfinite() for t in terms.values())


def test_without_losses_only_the_task_is_left() -> None:
    plain, taught = Distiller(gfl()).train(), Distiller(gfl(), gfl()).train()
    assert all(n.startswith("task/") for n in plain(batch()))
    assert plain(batch()).keys() == taught(batch()).keys()


def test_a_faster_copy_teaches_the_same_and_the_teacher_stays_as_it_was() -> None:
    student, teacher = faster_rcnn(), faster_rcnn()
    losses = [DeFeatConfig(type="defeat"), KL()]
    before, state = weights_hash(teacher), torch.get_rng_state()
    live = LiveTeacher(teacher, student.spec, size=(64, 64))
    assert torch.equal(torch.get_rng_state(), state)
    found = []
    for teaching in (live, LiveTeacher(teacher, student.spec)):
        torch.manual_seed(2)  # the sample of proposals
        found.append(Distiller(copy.deepcopy(student), teaching, losses).train()(batch()))
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-3, atol=1e-5)
    assert live.network is teacher
    assert live.frozen[0] is teacher
    copied = sum(isinstance(one, torch.nn.BatchNorm2d) for one in live.frozen[1].modules())
    assert copied < sum(isinstance(one, torch.nn.BatchNorm2d) for one in teacher.modules())
    assert weights_hash(teacher) == before


def test_the_teacher_is_in_no_state_and_stays_in_eval_unchanged() -> None:
    teacher = gfl()
    objective = Distiller(gfl(), teacher, [DeFeatConfig(type="defeat")]).train()
    before = weights_hash(teacher)
    teacher.train()  # whatever somebody did to it
    sum(objective(batch()).values()).backward()
    assert not teacher.training
    assert weights_hash(teacher) == before
    assert all(p.grad is None for p in teacher.parameters())
    names = set(objective.state_dict())
    assert all(n.startswith(("student.", "losses.")) for n in names)
    assert sum(p.numel() for p in objective.student.parameters()) < sum(
        p.numel() for p in objective.parameters()
    )


@pytest.mark.parametrize("source", ["teacher", "student"])
def test_both_two_stage_heads_score_the_same_proposals(source: str) -> None:
    config = DeFeatConfig.model_validate({"type": "defeat", "roi_source": source})
    objective = Distiller(faster_rcnn(), faster_rcnn(), [config]).train()
    student, teacher = objective._outputs(batch())
    assert student.rois is not None
    assert teacher.rois is not None
    for mine, theirs in zip(student.rois.boxes, teacher.rois.boxes, strict=True):
        assert torch.equal(mine, theirs)
    assert torch.equal(student.rois.labels, teacher.rois.labels)
    assert student.task_losses


@pytest.mark.parametrize("source", ["teacher", "student"])
@pytest.mark.parametrize("settings", [{"type": "tadf"}, {"type": "gdetkd", "instances": 8}])
def test_only_the_proposals_that_a_loss_compares_are_scored_by_both(
    settings, source: Literal["teacher", "student"]
) -> None:
    config = RECIPE.validate_python({**settings, "roi_source": source})
    objective = Distiller(faster_rcnn(), faster_rcnn(), [config]).train()
    torch.manual_seed(0)
    fewer = objective._outputs(batch())
    whole = Distiller(objective.student, objective.teacher, [KL(roi_source=source)]).train()
    torch.manual_seed(0)
    every = whole._outputs(batch())
    (loss,) = objective.losses
    loss.eval()  # it may remember what it has seen
    assert 0 < len(fewer[0].rois.labels) < len(every[0].rois.labels)
    some, all_of_them = loss(*fewer, batch()), loss(*every, batch())
    for name, value in some.items():
        torch.testing.assert_close(value, all_of_them[name])


def test_a_teacher_that_scores_the_students_proposals_makes_none() -> None:
    student, teacher = faster_rcnn(), faster_rcnn()
    ran: list[str | int] = []
    teacher.head.rpn.head.register_forward_hook(lambda *_: ran.append("proposal network"))
    teacher.head.roi.box_head.register_forward_hook(lambda _, __, out: ran.append(len(out)))
    mine, _ = Distiller(student, teacher, [KL(roi_source="student")]).train()._outputs(batch())
    assert ran == [len(mine.rois.labels)]


def test_the_students_box_head_scores_its_own_and_the_teachers_proposals_at_once() -> None:
    student, ran = faster_rcnn().eval(), []  # whose task losses are wanted all the same
    taught = faster_rcnn().eval()(batch(), frozenset({"rois"})).rois
    hook = student.head.roi.box_head.register_forward_hook(lambda *_: ran.append(1))
    torch.manual_seed(0)
    both = student(batch(), frozenset({"rois", "task"}), rois=taught)
    assert ran == [1]
    hook.remove()
    torch.manual_seed(0)
    alone = student(batch(), frozenset({"task"}))
    for name, value in alone.task_losses.items():
        torch.testing.assert_close(both.task_losses[name], value)
    apart = student(batch(), frozenset({"rois"}), rois=taught).rois
    for name in ("class_logits", "deltas", "embeddings", "predicted"):
        torch.testing.assert_close(getattr(both.rois, name), getattr(apart, name))


def test_labels_of_the_students_proposals_are_not_translated_from_a_teacher_of_more_classes() -> (
    None
):
    student, teacher = faster_rcnn(2), faster_rcnn(3)
    student.spec = replace(student.spec, classes=("cat", "dog"))
    teacher.spec = replace(teacher.spec, classes=("dog", "horse", "cat"))
    config = DeFeatConfig.model_validate({"type": "defeat", "roi_source": "student"})
    objective = Distiller(student, teacher, [config]).train()
    mine, theirs = objective._outputs(batch())
    assert mine.rois is not None
    assert theirs.rois is not None
    assert torch.equal(theirs.rois.labels, mine.rois.labels)
    assert theirs.rois.class_logits.shape == mine.rois.class_logits.shape


def test_unlabelled_pictures_feed_the_distillation_alone() -> None:
    objective = Distiller(gfl(), gfl(), [DeFeatConfig(type="defeat")]).eval()
    objective.student.train()
    for module in objective.student.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    whole = batch(labeled=1)
    blank = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    other = Batch(
        torch.cat([whole.images[:1], torch.rand(1, 3, 64, 64)]),
        (whole.targets[0], blank),
        whole.sizes,
        (7, 9),
        1,
    )
    whole = Batch(whole.images, (whole.targets[0], blank), whole.sizes, (7, 8), 1)
    one, two = objective(whole), objective(other)
    for name in one:
        same = torch.allclose(one[name], two[name], rtol=1e-4, atol=1e-6)
        assert same == (name.startswith("task/") or name.endswith("object")), name


def test_measuring_leaves_no_trace() -> None:
    objective = Distiller(gfl(), gfl(), [DeFeatConfig(type="defeat")]).train()
    before, state = copy.deepcopy(objective.state_dict()), torch.get_rng_state()
    terms = objective.measure(batch())
    assert {t.name for t in terms} == {"defeat/neck_object", "defeat/neck_background"}
    assert all(t.gradient_ratio > 0 for t in terms)
    assert torch.equal(torch.get_rng_state(), state)
    after = objective.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None for p in objective.parameters())


def test_terms_that_teach_a_part_of_its_own_are_left_out_of_the_balance() -> None:
    auto = IcdConfig(type="icd", weight="auto", ratio=0.25, warmup=1.0)
    objective = Distiller(gfl(), gfl(), [auto]).train()
    objective.at(99, 100)  # the last step of the warm-up: a factor of 1
    terms = objective(batch())
    task = sum(value.item() for name, value in terms.items() if name.startswith("task/"))
    assert terms["icd/instance"].item() == pytest.approx(0.25 * task, rel=1e-4)
    factor = objective.auto_weights()["icd"]
    assert factor != pytest.approx(1.0, rel=0.01)
    objective.at(9, 100)  # a tenth of the way up
    torch.manual_seed(0)
    early = objective(batch())
    objective.at(99, 100)
    torch.manual_seed(0)
    late = objective(batch())
    torch.testing.assert_close(early["icd/auxiliary_box"], late["icd/auxiliary_box"])
    assert early["icd/instance"].item() < 0.2 * late["icd/instance"].item()
    assert {term.name for term in objective.measure(batch())} == {"icd/instance"}


def named(detector: Detector, *classes: str) -> Detector:
    detector.spec = replace(detector.spec, classes=classes)
    return detector


def turned(detector: Detector, rows: int, layers: dict[str, int]) -> Detector:
    """Swap classes 0 and 1 in the named layers, which hold `rows` outputs before them."""
    state = detector.state_dict()
    for name, each in layers.items():
        for key in (f"{name}.weight", f"{name}.bias"):
            if key in state:
                first, second = (
                    slice(rows * each + each * c, rows * each + each * (c + 1)) for c in (0, 1)
                )
                kept = state[key][first].clone()
                state[key][first] = state[key][second]
                state[key][second] = kept
    return detector


@pytest.mark.parametrize("source", ["teacher", "student"])
def test_a_teacher_of_the_same_classes_in_another_order_teaches_the_same(source: str) -> None:
    config = DeFeatConfig.model_validate({"type": "defeat", "roi_source": source})
    student = named(faster_rcnn(), "a", "b")
    teacher = named(faster_rcnn(), "a", "b")
    layers = {"head.roi.box_predictor.cls_score": 1, "head.roi.box_predictor.bbox_pred": 4}
    other = named(turned(copy.deepcopy(teacher), 1, layers), "b", "a")
    found = []
    for one in (teacher, other):
        torch.manual_seed(3)
        objective = Distiller(student, one, [config]).train()
        torch.manual_seed(4)
        found.append(objective(batch()))
    assert found[0].keys() == found[1].keys()
    assert found[0]["defeat/roi_object"] > 0
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=1e-5, atol=1e-7)


def test_only_the_students_classes_are_taken_from_a_teacher_with_more() -> None:
    student, teacher = named(gfl(classes=2), "a", "b"), named(gfl(classes=3), "x", "b", "a")
    config = GidConfig(type="gid", min_size_px=2.0)
    assert check_pair(student.spec, teacher.spec, [config]) == []
    objective = Distiller(student, teacher, [config])
    _, taught = objective._outputs(batch())
    own = teacher(batch(), frozenset({"features", "dense"})).dense
    assert own is not None
    assert taught.dense is not None
    assert torch.equal(taught.dense.class_logits, own.class_logits[..., [2, 1]])


@pytest.mark.slow
def test_the_teachers_arithmetic_is_its_own_if_the_recipe_says_so() -> None:
    losses = [DeFeatConfig(type="defeat")]
    found = {}
    for precision in ("train", "fp32", "bf16"):
        objective = Distiller(gfl(), gfl(), losses, precision=precision)
        for autocast in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                _, taught = objective._outputs(batch())
            found[precision, autocast] = taught.features[0].dtype == torch.bfloat16
    assert found == {
        ("train", False): False,
        ("train", True): True,
        ("fp32", False): False,
        ("fp32", True): False,
        ("bf16", False): True,
        ("bf16", True): True,
    }


def test_a_term_beyond_ten_times_the_task_gets_advice() -> None:
    terms = [Term("fine", 1, 1, 1), Term("large", 1, 25, 40), Term("vanishing", 0, 1e-9, 1e-9)]
    large, vanishing = advice(terms)
    assert "large is 25 times the task loss" in large
    assert "divide its weight by about 40" in large
    assert vanishing.startswith("vanishing is 1e-09 of the task loss")


def test_the_error_for_an_impossible_pair_says_what_each_side_provides() -> None:
    backbone = DeFeatConfig(type="defeat", roi_object_weight=2.0, roi_background_weight=2.0)
    ((index, text),) = check_pair(gfl().spec, faster_rcnn().spec, [backbone])
    assert index == 0
    assert text.startswith("defeat needs rois; student 'gfl' provides")
    problems = check_pair(gfl((8,)).spec, gfl((16,)).spec, [DeFeatConfig(type="defeat")])
    assert "strides 8, teacher gfl of 16: none is shared" in problems[0][1]
    assert check_pair(gfl().spec, gfl(classes=3).spec, [GidConfig(type="gid")])


def test_a_loss_outside_its_schedule_is_not_computed_and_needs_nothing() -> None:
    losses = [DeFeatConfig(type="defeat"), GidConfig(type="gid", min_size_px=2.0, start=0.5)]
    objective = Distiller(gfl(), gfl(), losses).train()
    objective.at(0, 10)
    assert objective.wanted == {"features"}
    assert objective.watched() == {"defeat"}
    assert {n.partition("/")[0] for n in objective(batch())} == {"task", "defeat"}
    objective.at(5, 10)
    assert objective.wanted == {"features", "dense"}
    assert {n.partition("/")[0] for n in objective(batch())} == {"task", "defeat", "gid"}


def test_an_automatic_weight_holds_the_loss_at_its_ratio_of_the_task_loss() -> None:
    config = DeFeatConfig(type="defeat", weight="auto", ratio=0.3, window=1)
    objective = Distiller(gfl(), gfl(), [config]).train()
    terms = objective(batch())
    task = sum(v.item() for n, v in terms.items() if n.startswith("task/"))
    own = sum(v.item() for n, v in terms.items() if n.startswith("defeat/"))
    assert own == pytest.approx(0.3 * task, rel=1e-5)
    assert objective.auto_weights()["defeat"] > 0
    frozen = objective.auto_weights()
    objective(batch())
    assert objective.auto_weights() == frozen


def test_comparing_during_training_changes_no_gradient() -> None:
    plain, compared = (Distiller(gfl(), gfl(), [DeFeatConfig(type="defeat")]) for _ in range(2))
    compared.load_state_dict(plain.state_dict())
    gradients = []
    for objective, measure in ((plain, False), (compared, True)):
        teacher = gfl()
        teacher.load_state_dict(plain.teacher.state_dict())
        objective._teacher = LiveTeacher(teacher, objective.student.spec)
        objective.train().at(0, 10, measure=measure)
        sum(objective(batch()).values()).backward()
        gradients.append([p.grad for p in objective.parameters() if p.grad is not None])
    assert [t.name for t in compared.measured()] == ["defeat/neck_object", "defeat/neck_background"]
    assert plain.measured() == []
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_maps_that_are_not_finite_are_named_by_model_and_stride() -> None:
    teacher = gfl()
    objective = Distiller(gfl(), teacher, [DeFeatConfig(type="defeat")]).train()
    assert "the student's maps are finite, at most" in objective.explain(batch())
    next(teacher.backbone.parameters()).fill_(float("inf"))
    assert "the teacher's maps of stride 8, 16 are not finite" in objective.explain(batch())
