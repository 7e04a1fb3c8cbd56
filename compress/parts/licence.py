"""Licences of other packages whose code makes a detector, and the notice of them."""

from collections.abc import Iterable, Mapping

from export.artifact.manifest import NOTICE

# What the owner of a package states about models made with it.
_CLAIMS = {
    "ultralytics": "Ultralytics claims AGPL-3.0 for models trained with its code and sells an "
    "enterprise licence"
}


_IN_WEIGHTS = ", in the weights that a model began from"


def stated_in(made_by: Mapping[str, str]) -> list[str]:
    """Return the licences in `Manifest.made_by` of a model from whose weights another begins."""
    packages = [f"{name} {said}" for name, said in made_by.items() if name != NOTICE]
    return [one.removesuffix(_IN_WEIGHTS) + _IN_WEIGHTS for one in packages]


def notice(licences: Iterable[str]) -> str:
    """Return the notice for the use of packages under other licences; "" where there is none.

    Args:
        licences: package, version and licence of each, as in `DetectorSpec.licence`; empty ones
            are left out.
    """
    used = _distinct(licences)
    if not used:
        return ""
    claims = [_CLAIMS[name] for name in map(_package, used) if name in _CLAIMS]
    said = "".join(f"; {claim}" for claim in dict.fromkeys(claims))
    return (
        f"This run used {' and '.join(used)}. If you distribute or serve the result, or models "
        f"trained with it, see docs/licence.md of slimdet{said}. This is not legal advice."
    )


def made_with(licences: Iterable[str]) -> dict[str, str]:
    """Return the entries of `Manifest.made_by`: a version per package, and the notice."""
    used = _distinct(licences)
    if not used:
        return {}
    return {**{_package(one): one.partition(" ")[2] for one in used}, NOTICE: notice(used)}


def _distinct(licences: Iterable[str]) -> list[str]:
    found = {one for one in licences if one}
    return sorted(one for one in found if one.removesuffix(_IN_WEIGHTS) not in found - {one})


def _package(licence: str) -> str:
    return licence.partition(" ")[0]
