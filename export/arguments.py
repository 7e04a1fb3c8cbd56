"""Types of command-line values that several commands share; imports nothing heavy."""

import argparse


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def score(text: str) -> float:
    """Read a score threshold: at least 0, below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in 0..1")
    return value
