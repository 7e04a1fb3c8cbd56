"""The table of methods: what it says is so, cell by cell."""

import json
import re
import sys
from functools import cache
from typing import Any

import pytest
import torch

from compress.distillation.distiller import Distiller
from compress.distillation.pairing import check_pair
from compress.losses.defeat import DeFeatConfig
from compress.methods import (
    Method,
    SmallPair,
    example,
    families,
    loss_settings,
    main,
    markdown,
    small_pair,
)
from tests.compress.detectors.small import CLASSES, small_batch, spread

METHODS = loss_settings()


@cache
def pair(family: str) -> SmallPair:
    torch.manual_seed(0)
    student, teacher = small_pair(family)
    spread(student)  # else no box of a fresh head is large enough to be compared
    spread(teacher)
    return SmallPair(student, teacher)


def classifier_for(config: Any) -> dict[str, Any]:
    wanted = getattr(config, "wanted_classifier", lambda: None)()
    if wanted is None:
        return {}
    small = {"backbone": {"type": "slim_resnet", "widths": (16, 16, 16, 16)}, "crop": 32}
    return {"classifier": type(wanted).model_validate(small).build(CLASSES)}


@pytest.mark.parametrize("family", families())
@pytest.mark.parametrize("name", METHODS)
def test_every_yes_cell_takes_a_training_step(name: str, family: str) -> None:
    student, teacher = pair(family)
    config = example(name)
    if check_pair(student.spec, teacher.spec, [config]):
        pytest.skip("a cell that says no")
    torch.manual_seed(0)
    distiller = Distiller(student, teacher, [config], **classifier_for(config))
    distiller.train()
    distiller.at(400, 1000)  # past every warm-up and delayed start
    optimizer = torch.optim.SGD(distiller.parameters(), lr=1e-9)
    terms = distiller(small_batch((2, 1, 1)))  # RKD compares two pairs of pictures at least
    torch.stack(list(terms.values())).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    taught = [term for key, term in terms.items() if not key.startswith("task/")]
    assert taught
    assert all(term.isfinite() for term in terms.values())
    assert any(term > 0 for term in taught)
    assert all(parameter.isfinite().all() for parameter in distiller.parameters())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_without_released_code_says_so_in_its_settings_too(name: str) -> None:
    said = sys.modules[METHODS[name].__module__].__doc__ or ""
    if re.search(r"^Reconstructed|[.\n] *Reconstructed", said):
        assert METHODS[name].written_from == "reconstructed"
    elif "reconstructed" in said:
        assert METHODS[name].written_from == "reconstructed in part"
    else:
        assert not METHODS[name].written_from.startswith("reconstructed")


def test_a_pair_that_cannot_work_says_no_and_why() -> None:
    student, teacher = pair("retinanet").student, pair("faster_rcnn").teacher
    config = DeFeatConfig(type="defeat", roi_object_weight=1)
    assert "provides" in check_pair(student.spec, teacher.spec, [config])[0][1]


def test_the_table_shows_what_was_measured(tmp_path) -> None:
    def measured(**pairs: float) -> str:
        return json.dumps(
            {"pairs": {k: {"methods": {"fgd": {"over_floor": v}}} for k, v in pairs.items()}}
        )

    (tmp_path / "kd_step_gpu.json").write_text(measured(retinanet=1.1, gfl=1.234))
    gain = {"gain": {"mean": 0.0123, "ci95": [0.001, 0.0236]}}
    tables = {"tables": {"cells/few": {"methods": {"fgd": gain}}}}
    (tmp_path / "gain_cells.json").write_text(json.dumps(tables))
    problems: dict[str, tuple[str, ...]] = {
        family: ("no",) if family == "fcos" else () for family in families()
    }
    rows = [
        Method("fgd", "released code", {"gfl": ("features",), "x": ("rois", "features")}, problems),
        Method("pkd", "formula", {"gfl": ("features",)}, problems),
    ]
    header, _, first, second = markdown(rows, tmp_path).splitlines()
    assert header.endswith("| step / floor on gpu: retinanet, gfl | AP gain, cells/few |")
    cells = " | ".join("no" if problems[family] else "yes" for family in families())
    assert first == (
        f"| `fgd` | released code | features, rois (x) | {cells} | 1.10 / 1.23 "
        "| +1.2 [+0.1, +2.4] |"
    )
    assert second.endswith("| yes | - | - |")


def test_a_row_for_the_students_proposals_stands_in_brackets(tmp_path) -> None:
    measured = {"kl": {"over_floor": 1.6}, "kl, roi_source: student": {"over_floor": 1.042}}
    pairs = {"pairs": {"faster_rcnn": {"methods": measured}}}
    (tmp_path / "kd_step_cpu.json").write_text(json.dumps(pairs))
    header, _, row = markdown(
        [Method("kl", "formula", {}, dict.fromkeys(families(), ()))], tmp_path
    ).splitlines()
    assert header.endswith("| step / floor on cpu: faster_rcnn (with roi_source: student) |")
    assert row.endswith("| 1.60 (1.04) |")


def test_the_command_prints_a_row_per_method(capsys) -> None:
    assert main(["--why"]) == 0
    printed = capsys.readouterr().out
    assert all(f"| `{name}` |" in printed for name in METHODS)
