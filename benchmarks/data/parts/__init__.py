"""Shared by all readers: finding files, reading text and values, class names, box formats."""
