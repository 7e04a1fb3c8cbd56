"""A detector starts from what fits of another's weights; rows of classes follow their names."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from compress.detector import Detector
from compress.parts.transfer import Transfer, transfer
from compress.parts.weights import save_weights, weights_hash
from export.errors import DataError, RecipeError
from tests.compress.detectors.small import small_detector

CLASS_LAYER = ("head.class_logits.weight", "head.class_logits.bias")


def saved(folder: Path, family: str = "gfl", classes: int = 5) -> tuple[Path, Detector]:
    """A file whose values all differ from those of a new detector."""
    detector = small_detector(family, classes=classes)
    with torch.no_grad():
        for parameter in detector.parameters():
            parameter.add_(1)
    save_weights(detector.state_dict(), folder / "w.safetensors")
    return folder / "w.safetensors", detector


def named(family: str, classes: Sequence[str]) -> Detector:
    detector = small_detector(family, classes=len(classes))
    detector.spec = replace(detector.spec, classes=tuple(classes))
    return detector


def start(
    detector: Detector, file: Path, known: Sequence[str] | None, *, copy: bool = True
) -> Transfer:
    family = detector.spec.family
    return transfer(detector, file, known, lambda n: small_detector(family, classes=n), copy=copy)


def test_rows_of_classes_follow_their_names_and_all_else_is_copied(tmp_path: Path) -> None:
    file, other = saved(tmp_path)
    detector = named("gfl", ["cat", "ship", "dog"])
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    report = start(detector, file, ["dog", "cat", "cow", "hen", "fox"])
    own, theirs = detector.state_dict(), other.state_dict()
    assert report.rows == ((0, 1), (2, 0))
    assert report.by_class == CLASS_LAYER
    assert report.random == ()
    assert len(report.copied) == len(own) - 2
    for name in CLASS_LAYER:
        assert torch.equal(own[name][0], theirs[name][1])
        assert torch.equal(own[name][1], before[name][1])  # ship starts anew
        assert torch.equal(own[name][2], theirs[name][0])
    assert all(torch.equal(own[name], theirs[name]) for name in own if name not in CLASS_LAYER)
    total = len(own)
    assert report.complete
    assert report.summary() == (
        f"{total - 2} of {total} tensors copied ({report.share:.1%} of the values), and in 2 layer "
        "tensors the rows of 2 classes that both know"
    )


@pytest.mark.parametrize("known", [None, ["hen", "fox", "cow"]])
def test_without_a_class_that_both_know_the_layer_of_classes_starts_anew(
    tmp_path: Path, known: list[str] | None
) -> None:
    file, _ = saved(tmp_path, classes=3)
    detector = named("gfl", ["cat", "ship", "dog"])
    before = {name: detector.state_dict()[name].clone() for name in CLASS_LAYER}
    report = start(detector, file, known)
    assert report.random == CLASS_LAYER
    assert all(torch.equal(detector.state_dict()[name], before[name]) for name in CLASS_LAYER)
    assert "2 start from random weights (head.class_logits.weight, head.class" in report.summary()


@pytest.mark.parametrize(("known", "same"), [(["cat", "dog"], True), (["dog", "cat"], False)])
def test_a_family_with_several_rows_a_class_takes_them_for_equal_classes_alone(
    tmp_path: Path, known: list[str], same: bool
) -> None:
    file, other = saved(tmp_path, "retinanet", classes=2)
    detector = named("retinanet", ["cat", "dog"])
    report = start(detector, file, known)
    assert (report.random == ()) is same
    assert (weights_hash(detector) == weights_hash(other)) is same
    assert all("cls_logits" in name for name in report.random)


@pytest.mark.usefixtures("small_rtdetr")
@pytest.mark.parametrize("family", ["gfl", "yolo", "rtdetr"])
def test_rows_of_classes_are_all_that_depends_on_their_number(family: str) -> None:
    if family != "gfl" and find_spec("ultralytics") is None:
        pytest.skip("needs the package ultralytics")
    detector, more = (small_detector(family, classes=classes) for classes in (3, 4))
    own, other = detector.state_dict(), more.state_dict()
    rows = detector.class_rows()
    assert rows == {name for name in own if own[name].shape != other[name].shape}
    assert all((own[name].shape[0], other[name].shape[0]) == (3, 4) for name in rows)


def test_a_check_changes_nothing_and_finds_the_same(tmp_path: Path) -> None:
    file, _ = saved(tmp_path)
    detector = named("gfl", ["cat", "ship", "dog"])
    before, state = weights_hash(detector), torch.get_rng_state()
    found = start(detector, file, ["dog", "cat", "cow", "hen", "fox"], copy=False)
    assert weights_hash(detector) == before
    assert found == start(detector, file, ["dog", "cat", "cow", "hen", "fox"])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_file_of_which_nothing_fits_is_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(RecipeError, match=r"no tensor of it.*it holds 1 tensor \(conv\.weight"):
        start(named("gfl", ["cat"]), tmp_path / "w.pt", None)


def test_a_file_of_another_network_is_told_by_the_share_that_fits(tmp_path: Path) -> None:
    detector = named("gfl", ["cat"])
    some = {"head.box_logits.bias": torch.ones_like(detector.state_dict()["head.box_logits.bias"])}
    torch.save(some, tmp_path / "w.pt")
    report = start(detector, tmp_path / "w.pt", None)
    assert not report.complete
    values = sum(tensor.numel() for tensor in detector.state_dict().values())
    assert report.share == pytest.approx(some["head.box_logits.bias"].numel() / values)


def test_values_that_are_not_finite_are_refused_and_nothing_is_copied(tmp_path: Path) -> None:
    _, other = saved(tmp_path)
    state = other.state_dict()
    state["head.box_logits.bias"][0] = float("nan")
    torch.save(state, tmp_path / "w.pt")
    detector = named("gfl", ["cat"])
    before = weights_hash(detector)
    with pytest.raises(DataError, match="NaN or infinite"):
        start(detector, tmp_path / "w.pt", None)
    assert weights_hash(detector) == before
