"""Names of splits."""

SPLITS = ("train", "val", "valid", "validation", "test")
_ALIASES = {"val": ("val", "valid", "validation"), "valid": ("valid", "val", "validation")}


def split_names(split: str) -> tuple[str, ...]:
    """Return the names under which a split is also known: "val" is often "valid"."""
    return _ALIASES.get(split, (split,))
