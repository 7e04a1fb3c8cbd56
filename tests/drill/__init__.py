"""Inputs that are wrong on purpose, by the hundred: see `python -m tests.drill --help`."""
