"""The package's names of weights map one to one onto ours."""

import pytest
import torch

from compress.detectors.small_pairs import build_small, small_settings
from compress.detectors.ultralytics_parts.installed import is_installed
from compress.detectors.ultralytics_parts.package import (
    RTDETR_MODELS,
    YOLO_MODELS,
    load_package,
)
from tests.compress.detectors.ultralytics_parts.theirs import their_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not is_installed(), reason="ultralytics is not installed"),
]
CONSTANT = "dfl.conv.weight"  # the bins of a distribution
SMALLER = [name for name in YOLO_MODELS if name[-1] in "nsm"]


@pytest.mark.parametrize("model", [*SMALLER, *RTDETR_MODELS])
def test_every_tensor_of_the_package_has_one_place_here(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # it computes with numbers, which tensors without weights do not have
    monkeypatch.setattr(load_package().detect, "bias_init", lambda _: None)
    family = "yolo" if model in YOLO_MODELS else "rtdetr"
    with torch.device("meta"):
        our = build_small(small_settings(family, model=model))
    assert all(one.is_meta for one in our.parameters())
    their = their_model(model, meta=True).state_dict()
    kept = {name: value for name, value in their.items() if not name.endswith(CONSTANT)}
    assert len(their) - len(kept) == (1 if model.startswith(("yolov8", "yolo11")) else 0)
    renamed = our.renamed(their)
    assert len(renamed) == len(kept)
    expected = {name: (value.shape, value.dtype) for name, value in our.state_dict().items()}
    assert {name: (value.shape, value.dtype) for name, value in renamed.items()} == expected
    places = dict(zip(kept.values(), renamed, strict=True))
    for name, value in kept.items():  # a name keeps all but its first parts
        assert places[value].endswith(name.split(".", 2)[2])


def test_names_with_the_checkpoint_s_own_prefix_and_other_names_are_known() -> None:
    with torch.device("meta"):
        our = build_small(small_settings("yolo", model="yolo11n"))
    own = our.state_dict()
    assert our.renamed(own) == own
    head = {f"model.model.23.{name}": own[f"head.{name}"] for name in ("cv2.0.2.bias",)}
    assert our.renamed(head) == {"head.cv2.0.2.bias": own["head.cv2.0.2.bias"]}
    mixed = {**head, "optimizer": own["head.cv2.0.2.bias"]}
    assert our.renamed(mixed) == mixed  # a file of another kind
