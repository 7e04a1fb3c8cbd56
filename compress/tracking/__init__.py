"""Loggers of a run's figures that a recipe may name in `track`."""
