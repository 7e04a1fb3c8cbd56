"""One test per vector of the folder that SLIMDET_GOLDEN names (default: this folder)."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.golden.case import UnknownFamilyError, read_case
from tests.golden.families import FAMILIES, compare

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("SLIMDET_GOLDEN") or HERE)
VECTORS = sorted(FOLDER.glob("*.npz"))


def family_of(path: Path) -> str:
    return path.stem.rsplit("_", 1)[0]


@pytest.mark.parametrize("path", VECTORS, ids=lambda path: path.stem)
def test_our_numbers_are_the_authors_numbers(path):
    deviations = compare(family_of(path), read_case(path))
    assert deviations, f"{path.name}: nothing was compared"
    wrong = [d for d in deviations if not d.error <= d.limit]
    assert not wrong, "\n".join(f"{d.quantity}: {d.error:.3g} > {d.limit:.3g}" for d in wrong)


def test_the_folder_holds_vectors():
    assert VECTORS, f"no .npz file in {FOLDER}"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_implemented_family_has_a_vector_beside_this_file(family):
    assert family in {family_of(path) for path in HERE.glob("*.npz")}


def test_a_vector_of_an_unknown_family_fails_and_says_so():
    case = read_case(HERE / "gism_02.npz")
    with pytest.raises(UnknownFamilyError, match="'gismo', which is not implemented here"):
        compare("gismo", case)


def test_a_wrong_number_is_noticed():
    case = read_case(HERE / "defeat_02.npz")
    case.arrays["out_neck_bg"] = case.arrays["out_neck_bg"] * np.float32(1 + 2e-5)
    case.arrays["grad_neck_s_1"] = case.arrays["grad_neck_s_1"] * np.float32(1 + 4e-5)
    wrong = {d.quantity for d in compare("defeat", case) if d.error > d.limit}
    assert wrong == {"out_neck_bg", "grad_neck_s_1"}


@pytest.mark.parametrize(("relative", "wrong"), [(1 + 1e-7, set()), (1 + 1e-5, {"out_mask_fg"})])
def test_a_mask_of_weights_may_differ_in_the_last_place_alone(relative, wrong):
    case = read_case(HERE / "fgd_01.npz")
    case.arrays["out_mask_fg"] = (case.arrays["out_mask_fg"] * relative).astype(np.float32)
    assert {d.quantity for d in compare("fgd", case) if d.error > d.limit} == wrong


def test_a_mask_of_weights_is_zero_where_the_authors_is():
    case = read_case(HERE / "fgd_01.npz")
    case.arrays["out_mask_bg"][case.arrays["out_mask_bg"] == 0] = 1e-12
    assert {d.quantity for d in compare("fgd", case) if not d.error <= d.limit} == {"out_mask_bg"}
