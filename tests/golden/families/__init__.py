"""Which module computes the vectors of which method, by the first part of the file name."""

from collections.abc import Callable

from tests.golden.case import Case, Deviation, UnknownFamilyError
from tests.golden.families import defeat, dicod, gid, gism

FAMILIES: dict[str, Callable[[Case], list[Deviation]]] = {
    "defeat": defeat.compare,
    "dicod": dicod.compare,
    "gid": gid.compare,
    "gism": gism.compare,
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
