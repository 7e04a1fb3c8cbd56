"""The step benchmark, without asking how long anything took."""

import sys

import pytest
import torch

from benchmarks.studies.kd_methods import fitting, method_names, stated
from benchmarks.studies.kd_pair import Pair, Setting, make_pair, table, with_store
from benchmarks.studies.kd_peers import AsTheyExpect, map_modules, peer_steps
from benchmarks.studies.kd_step import main, make_distiller, make_floor, make_step, measure
from compress.detectors.ultralytics_parts.installed import is_installed
from tests.compress.detectors.small import small_batch, small_detector


def test_a_method_that_does_not_fit_a_pair_is_named_with_the_reason() -> None:
    student = small_detector("faster_rcnn")
    chosen, skipped = fitting(("defeat", "gid"), student, small_detector("retinanet"))
    assert set(chosen) == {"defeat"}
    assert "place by place" in skipped["gid"]


def test_every_member_of_the_union_is_either_chosen_or_skipped() -> None:
    student = small_detector("gfl")
    chosen, skipped = fitting(method_names(), student, student)
    assert {"defeat", "gid"} <= set(chosen)
    assert chosen.keys() | skipped.keys() == set(method_names())
    assert {"ikd", "dicod"} <= set(chosen)


def test_methods_on_proposals_have_a_row_for_each_source_of_them() -> None:
    both = small_detector("faster_rcnn")
    chosen, _ = fitting(method_names(), both, both)
    second = {name.partition(",")[0] for name in chosen if ", roi_source: student" in name}
    assert second == {"defeat", "kl", "dkd", "dist", "tadf", "gdetkd"}
    assert stated(chosen["kl, roi_source: student"]) == {"roi_source": "student"}
    base = stated(chosen["ikd"])["base"]
    assert isinstance(base, dict)
    assert base["type"] == "defeat"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kl", "kl, roi_source: student", "ikd", "dicod"])
def test_a_step_and_its_floor_can_be_taken(name: str) -> None:
    student, teacher = small_detector("faster_rcnn"), small_detector("faster_rcnn")
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-6)
    teacher.eval().requires_grad_(False)
    batch = small_batch()
    pair = Pair(student, teacher, batch, optimizer)
    chosen, _ = fitting((name.partition(",")[0],), student, teacher)
    ran: list[int] = []
    teacher.head.rpn.head.register_forward_hook(lambda *_: ran.append(1))
    assert make_floor(pair, chosen[name])().keys() == student.train()(batch).task_losses.keys()
    # the teacher proposes where its proposals are wanted, and nowhere else
    assert bool(ran) == (name in ("kl", "ikd"))
    make_step("distilled", pair, chosen[name])()
    assert all(p.isfinite().all() for p in student.parameters())


def test_an_unknown_method_is_refused_with_the_known_ones(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["--methods", "defeat,gidd"])
    said = capsys.readouterr().err
    assert "unknown: gidd; known: " in said
    assert all(name in said for name in method_names())


def test_peers_that_are_not_installed_are_named_with_the_command(capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    assert main(["--peers"]) == 4
    assert "pip install torchdistill nvidia-modelopt" in capsys.readouterr().err


@pytest.mark.parametrize(("family", "levels"), [("retinanet", 3), ("faster_rcnn", 3), ("gfl", 3)])
def test_the_modules_that_make_the_pyramids_maps_are_found(family, levels) -> None:
    detector, batch = small_detector(family), small_batch()
    paths = map_modules(AsTheyExpect(detector, batch), batch)
    assert len(paths) == levels
    assert len(set(paths)) == levels


def test_a_step_from_the_store_has_the_terms_of_the_live_one(tmp_path) -> None:
    student, teacher = small_detector("gfl").train(), small_detector("gfl", width=32).eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-6)
    pair = Pair(student, teacher, small_batch(), optimizer)
    chosen, _ = fitting(("pkd", "crosskd", "pseudo_labels"), student, teacher)
    stored = with_store(pair, chosen["pkd"], tmp_path)
    assert stored is not None
    terms = []
    for one in (pair, stored):
        torch.manual_seed(0)
        terms.append(make_distiller(one, chosen["pkd"])(one.batch)["pkd/feature"])
    torch.testing.assert_close(terms[1], terms[0], rtol=1e-2, atol=0)
    assert with_store(pair, chosen["crosskd"], tmp_path) is None  # compares towers
    assert with_store(pair, chosen["pseudo_labels"], tmp_path) is None  # asks no network


@pytest.mark.slow
def test_one_round_measures_every_step_of_a_pair() -> None:
    torch.manual_seed(0)
    setting = Setting("retinanet", 64, 1, "cpu")
    result = measure(setting, ("defeat",), 1, memory=False)
    assert result["methods"]["defeat"]["needs"] == ["features"]
    assert result["methods"]["defeat"]["floor"]["ms"] > 0
    assert result["plain"]["peak_mib"] is None
    assert result["methods"]["defeat"]["stored_over_plain"] is not None
    assert "defeat" in table(setting, 1, result)
    assert all(p.grad is None for p in make_pair(setting).teacher.parameters())


@pytest.mark.slow
@pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed")
def test_ultralytics_takes_a_plain_and_a_distilled_step_with_our_weights() -> None:
    torch.manual_seed(0)
    pair = make_pair(Setting("yolo", 64, 2, "cpu"))
    before = {name: value.clone() for name, value in pair.student.state_dict().items()}
    steps = peer_steps("ultralytics", *pair[:3])
    assert list(steps) == ["ultralytics plain", "ultralytics"]
    for step in steps.values():
        step()
    assert all(
        torch.equal(value, before[name]) for name, value in pair.student.state_dict().items()
    )
    gfl = small_detector("gfl")
    assert peer_steps("ultralytics", gfl, gfl, small_batch()) == {}
