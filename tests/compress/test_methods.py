"""The table of methods: what it says is so, cell by cell."""

import json
import re
import sys
from functools import cache
from typing import Any

import pytest
import torch
import yaml

from compress.detectors.small_pairs import (
    NAMED,
    SmallPair,
    build_small,
    families,
    small_pair,
    small_settings,
    unlike_pairs,
)
from compress.distillation.distiller import Distiller
from compress.distillation.pairing import check_pair
from compress.losses.defeat import DeFeatConfig
from compress.methods import (
    Method,
    example,
    find_method,
    loss_settings,
    main,
    markdown,
    page,
    support,
    working_methods,
)
from tests.compress.detectors.small import CLASSES, small_batch, spread

pytestmark = pytest.mark.usefixtures("small_rtdetr")
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


@pytest.mark.slow
@pytest.mark.parametrize("family", [one for one in families() if one not in NAMED])
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


# Of models too large to try every method on its own.
PAIRS = unlike_pairs() | {
    f"{teacher} to {student}": (
        small_settings(family, model=student),
        small_settings(family, model=teacher),
    )
    for family, (student, teacher) in NAMED.items()
}


@pytest.mark.slow
@pytest.mark.skipif(not set(NAMED) <= set(families()), reason="needs the package ultralytics")
@pytest.mark.parametrize("name", PAIRS)
def test_all_methods_of_a_pair_take_a_training_step_together(name: str) -> None:
    settings = PAIRS[name]
    torch.manual_seed(0)
    student, teacher = (spread(build_small(one)) for one in settings)
    configs = [example(method) for method in working_methods(*settings)]
    classifier = classifier_for(example("dicod"))
    distiller = Distiller(student, teacher, configs, **classifier).train()
    distiller.at(400, 1000)
    terms = distiller(small_batch((2, 1, 1)))
    torch.stack(list(terms.values())).sum().backward()
    for config in configs:
        own = [term for key, term in terms.items() if key.startswith(f"{config.type}/")]
        assert own, config.type
        assert all(term.isfinite() for term in own), config.type
        assert any(term > 0 for term in own), config.type
    assert all(p.grad is None or p.grad.isfinite().all() for p in distiller.parameters())


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


def test_the_list_fits_a_terminal_and_names_the_detectors_of_what_is_not_for_all(capsys) -> None:
    assert main(["--why"]) == 0
    listed, _, why = capsys.readouterr().out.partition("and settings of a method\n")
    lines = listed.splitlines()
    assert [line.split()[0] for line in lines[1:] if line[:1].strip()][: len(METHODS)] == sorted(
        METHODS
    )
    assert max(map(len, lines)) <= 80
    assert "through the teacher's last layers (only retinanet, fcos, gfl" in " ".join(
        listed.split()
    )
    assert "ld on ssd: ld needs dfl" in why


def methods() -> dict[str, Method]:
    return {method.name: method for method in support()}


@pytest.mark.parametrize("name", METHODS)
def test_a_page_holds_the_facts_and_settings_that_a_recipe_takes(name: str, tmp_path) -> None:
    method = methods()[name]
    shown = page(method, tmp_path)
    assert max(map(len, shown.splitlines())) <= 80
    assert method.purpose in " ".join(shown.split())
    assert re.search(r"20\d\d|IKD", method.paper) or method.name == "mse"
    for family in families():
        assert (f"- not on {family}: " in shown) == (family not in method.works_on)
    _, _, fragment = shown.partition("\ndistill:\n")
    (read,) = yaml.safe_load(f"distill:\n{fragment}")["distill"]
    assert METHODS[method.name].model_validate_json(json.dumps(read)) == example(method.name)


@pytest.mark.slow
def test_a_page_shows_comments_and_measurements(tmp_path, capsys) -> None:
    assert main(["defeat"]) == 0
    shown = capsys.readouterr().out
    assert "    object_weight: 3.0  # alpha_obj\n" in shown
    assert "    adapter: conv  # conv | none; none: only for equal channels\n" in shown
    assert "    weight: 1.0  # or auto\n" in shown
    (tmp_path / "gain_cells.json").write_text(
        json.dumps(
            {"tables": {"few": {"methods": {"pkd": {"gain": {"mean": 0.01, "ci95": None}}}}}}
        )
    )
    assert "- AP gain, few: +1.0\n" in page(find_method("pkd"), tmp_path)


@pytest.mark.parametrize(
    ("typed", "hint"), [("FGD", "did you mean 'fgd'"), ("frobnicate", "(there are: at, bckd")]
)
def test_a_method_that_there_is_not_is_refused_with_the_nearest(typed, hint, capsys) -> None:
    assert main([typed]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert hint in said.err
    assert said.err.count("\n") == 1
