"""Bundles: their files and texts, for a device without this package."""
