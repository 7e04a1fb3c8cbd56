"""Readers: one file per format, each turning one split into an `ImageSet`."""
