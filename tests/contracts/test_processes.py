"""Several processes train what one trains: every method, every family, equal weights and logs.

The pictures of a batch are spread unevenly, the processes see different numbers of objects, and one
pair of processes trains all cells. A method whose normaliser, mean, memory or draw is that of one
process fails here; `compress/parts/processes.py` says what to write instead.
"""

import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compress.detectors.small_pairs import NAMED, families
from compress.distillation.pairing import check_pair
from compress.methods import EXAMPLES, loss_settings
from tests.contracts.together import (
    LOSS,
    Cell,
    Made,
    alone,
    batch_of,
    objective_of,
    one_of,
    pair_of,
)
from tests.processes import start_each

pytestmark = pytest.mark.usefixtures("small_rtdetr")
COUNTS = (2, 1, 0, 3, 1)  # boxes by picture; two processes have the first two and the last three
EMPTY = (0, 0, 0, 3, 1)  # the first process has no object at all
TOLERANCE = 1e-5
FIRST_CHOICE = {  # family by method, where it is not the first one below
    **dict.fromkeys(("defeat", "dkd", "gdetkd", "kl", "tadf"), "faster_rcnn"),
    **dict.fromkeys(("crosskd", "dicod", "ld"), "gfl"),
}
TEACHERS = {"kddetr": "rtdetr"}  # family of the teacher by method, where it is another
VARIANTS: dict[str, Cell] = {
    cell.name: cell
    for cell in (
        Cell("amp", "gfl", {"type": "defeat"}, COUNTS, 5, {"amp": "bf16"}),
        Cell("accumulate", "gfl", {"type": "defeat"}, COUNTS, 5, {"accumulate": 2}),
        Cell("adamw", "gfl", {"type": "defeat"}, COUNTS, 5, {"optimizer": "adamw", "lr": 1e-3}),
        Cell("ema", "fcos", {"type": "mse"}, COUNTS, 5, {"ema": 0.9}),
        Cell("batch_norm", "fcos", {"type": "at"}, COUNTS, 5, {}, norm="batch"),
        Cell("frozen_norm", "retinanet", {"type": "at"}, COUNTS, 5, {}, norm="frozen"),
        Cell(
            "frozen_stages",
            "fcos",
            {"type": "at"},
            COUNTS,
            5,
            {"freeze_at": 2, "norm_eval": True, "layer_decay": 0.5},
            norm="batch",
        ),
        Cell("unlabelled", "faster_rcnn", {"type": "gdetkd", "queue": 24}, COUNTS, 3, {}),
        Cell("unlabelled_icd", "fcos", {"type": "icd", "delay_steps": 0}, COUNTS, 3, {}),
        Cell("unlabelled_gid", "gfl", {"type": "gid", "min_size_px": 2}, COUNTS, 3, {}),
        Cell("pseudo_rois", "faster_rcnn", {"type": "pseudo_labels"}, COUNTS, 3, {}),
        Cell("pseudo_softmax", "ssd", {"type": "pseudo_labels"}, EMPTY, 3, {}),
        Cell("automatic", "retinanet", {"type": "fgd", "weight": "auto"}, COUNTS, 5, {}),
        Cell("no_objects_defeat", "faster_rcnn", {"type": "defeat"}, EMPTY, 5, {}),
        Cell("no_objects_dist", "gfl", {"type": "dist"}, EMPTY, 5, {}),
        Cell("no_objects_ld", "gfl", {"type": "ld"}, EMPTY, 5, {}),
        Cell("no_objects_dicod", "fcos", {"type": "dicod"}, EMPTY, 5, {}),
        Cell("no_objects_icd", "ssd", {"type": "mgd"}, EMPTY, 5, {}),
        Cell("ld_none", "gfl", {"type": "ld", "normalize": "none"}, COUNTS, 5, {}),
        Cell("gid_image", "gfl", {"type": "gid", "relation_scope": "image"}, COUNTS, 5, {}),
        Cell("icd_root", "retinanet", {"type": "icd", "error": "root"}, COUNTS, 5, {}),
        Cell("crosskd_fcos", "fcos", {"type": "crosskd", "weight": 0.05}, COUNTS, 5, {}),
        Cell("fgfi_all", "fcos", {"type": "fgfi", "levels": "all"}, COUNTS, 5, {}),
        Cell("cwd_logits", "gfl", {"type": "cwd", "source": "class_logits"}, COUNTS, 5, {}),
        Cell("mgd_channel", "fcos", {"type": "mgd", "mask": "channel"}, COUNTS, 5, {}),
        Cell(
            "defeat_backbone",
            "ssd",
            {"type": "defeat", "backbone_object_weight": 1, "backbone_background_weight": 1},
            COUNTS,
            5,
            {},
        ),
    )
}
CONTINUED = "unlabelled"  # with a memory, a random sample and draws
LOOSE = {"amp": 0.02}  # bfloat16 keeps 8 bits, and sums are rounded in another order


def plain_cell(family: str) -> Cell:
    # in a hundred layers with BatchNorms over 30 cells, rounding grows tenfold with every step
    schedule: dict[str, Any] = {"steps": 1} if family in NAMED else {}
    return Cell(f"none_{family}", family, None, COUNTS, len(COUNTS), schedule)


def method_cell(method: str) -> Cell:
    """Train a method on the first family that it fits, as heavy as the task's losses."""
    loss: dict[str, Any] = {"type": method, **EXAMPLES.get(method, {})}
    config = LOSS.validate_python(loss)
    taught_by = TEACHERS.get(method, "")
    for family in (FIRST_CHOICE.get(method, "retinanet"), *families()):
        student, teacher = pair_of(family, taught_by)
        if not check_pair(student.spec, teacher.spec, [config]):
            break
    cell = Cell(method, family, loss, COUNTS, len(COUNTS), {}, teacher=taught_by)
    terms = objective_of(cell).train()(batch_of(cell, 0, 0, 1))
    sizes = {name: abs(float(term.detach())) for name, term in terms.items()}
    task = sum(size for name, size in sizes.items() if name.startswith("task/"))
    ratio = task / max(sum(sizes.values()) - task, 1e-6)
    return replace(cell, loss={**loss, "weight": ratio * config.fixed_weight})


def cell_of(name: str) -> Cell:
    if name in VARIANTS:
        return VARIANTS[name]
    if name.startswith("none_"):
        return plain_cell(name.removeprefix("none_"))
    return method_cell(name)


METHODS = [name for name in loss_settings() if TEACHERS.get(name, "retinanet") in families()]
NAMES = [*sorted(METHODS), *(f"none_{family}" for family in families()), *VARIANTS]


@dataclass(frozen=True)
class Trainings:
    """The cells' trainings by name, and the folder of both."""

    home: Path
    one: dict[str, Made]
    two: dict[str, Made]


@pytest.fixture(scope="module")
def trainings(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Trainings:
    """Train the selected cells by one process, then all of them by two."""
    here = [item for item in request.session.items if item.path == request.path]
    chosen = {CONTINUED} | {
        item.callspec.params["name"] for item in here if hasattr(item, "callspec")
    }
    cells = [cell_of(name) for name in NAMES if name in chosen]
    home = tmp_path_factory.mktemp("processes")
    one = alone(cells, home / "one")
    return Trainings(home, one, together(cells, home / "two"))


def together(cells: list[Cell], home: Path, world: int = 2) -> dict[str, Made]:
    """Train every cell by `world` processes that are started once."""
    home.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (home / "port").write_text(str(probe.getsockname()[1]))
    start_each(one_of, world, cells, home, processes=world)
    return {cell.name: Made(*torch.load(home / f"{cell.name}.pt")) for cell in cells}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_and_log_what_one_does(name: str, trainings: Trainings) -> None:
    one, two = trainings.one[name], trainings.two[name]
    tolerance = LOOSE.get(name, TOLERANCE)
    assert_equal_weights(two, one, tolerance)
    for expected_rows, rows in ((one.results, two.results), (one.terms, two.terms)):
        assert len(rows) == len(expected_rows)
        for expected_row, row in zip(expected_rows, rows, strict=True):
            assert row.keys() == expected_row.keys()
            for column in row.keys() - {"seconds", "processor_seconds", "name"}:
                wanted = float(expected_row[column])
                near = pytest.approx(wanted, rel=10 * tolerance, abs=tolerance)
                assert float(row[column]) == near, column


def assert_equal_weights(found: Made, expected: Made, tolerance: float) -> None:
    assert found.weights.keys() == expected.weights.keys()
    for name, wanted in expected.weights.items():
        torch.testing.assert_close(found.weights[name], wanted, rtol=0, atol=tolerance, msg=name)


@pytest.mark.slow
def test_what_two_processes_began_one_goes_on_with(trainings: Trainings) -> None:
    longer = replace(VARIANTS[CONTINUED], schedule={"steps": 4})
    one, two = (alone([longer], trainings.home / folder)[CONTINUED] for folder in ("one", "two"))
    assert [row["step"] for row in two.results] == ["3", "4"]
    assert_equal_weights(two, one, TOLERANCE)
