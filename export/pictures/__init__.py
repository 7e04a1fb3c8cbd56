"""Photographs in: decoding, letterboxing, calibration samples, video."""
