"""Which module computes the vectors of which method, by the first part of the file name."""

from collections.abc import Callable

from tests.golden.case import Case, Deviation, UnknownFamilyError
from tests.golden.families import (
    at,
    bckd,
    bckdloc,
    crosskd,
    cwd,
    defeat,
    dicod,
    dist,
    dkd,
    fbkd,
    fgd,
    fgfi,
    gid,
    gism,
    icd,
    icdaux,
    kl,
    ld,
    mgd,
    pkd,
    reviewkd,
    rkd,
)

FAMILIES: dict[str, Callable[[Case], list[Deviation]]] = {
    "at": at.compare,
    "bckd": bckd.compare,
    "bckdloc": bckdloc.compare,
    "crosskd": crosskd.compare,
    "cwd": cwd.compare,
    "defeat": defeat.compare,
    "dicod": dicod.compare,
    "dist": dist.compare,
    "dkd": dkd.compare,
    "fbkd": fbkd.compare,
    "fgd": fgd.compare,
    "fgfi": fgfi.compare,
    "gid": gid.compare,
    "gism": gism.compare,
    "icd": icd.compare,
    "icdaux": icdaux.compare,
    "kl": kl.compare,
    "ld": ld.compare,
    "mgd": mgd.compare,
    "pkd": pkd.compare,
    "reviewkd": reviewkd.compare,
    "rkd": rkd.compare,
}


def compare(family: str, case: Case) -> list[Deviation]:
    """Compute one vector with our code; return how far every quantity is from it."""
    if family not in FAMILIES:
        raise UnknownFamilyError(
            f"{case.name}.npz is of the family {family!r}, which is not implemented here; "
            f"implemented: {', '.join(FAMILIES)}. Add tests/golden/families/{family}.py and "
            "name it in FAMILIES, or leave the file out"
        )
    return FAMILIES[family](case)
