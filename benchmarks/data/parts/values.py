"""Single values of annotation files: whole numbers, numbers and flags, however they are written."""

MOST = 1e9  # pixels; nothing larger lies on a picture
_MOST_ID = 2**63
_TRUE = frozenset({"1", "1.0", "true", "yes", "on", "y", "t"})
_FALSE = frozenset({"", "0", "0.0", "false", "no", "off", "n", "f", "none", "null"})


def whole(value: object) -> int | None:
    """Return a whole number, also where it is written 3.0; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():
        return None
    return int(value) if -_MOST_ID < value < _MOST_ID else None


def number(value: object) -> float | None:
    """Return a number of pixels; None for text, truth values, NaN and what no picture can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if -MOST < value < MOST else None  # false also for NaN


def number_in(text: str | None) -> float | None:
    """Return the number that a text holds, NaN and infinities included; None for anything else."""
    try:
        return None if text is None or "_" in text else float(text)
    except ValueError:
        return None


def flag(value: object) -> bool | None:
    """Return a truth value written as 1, true, yes or on, or their opposites; else None."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    word = value.strip().lower() if isinstance(value, str) else "?"
    return True if word in _TRUE else False if word in _FALSE else None
