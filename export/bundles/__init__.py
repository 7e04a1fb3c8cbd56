"""A bundle: its files, and the text in them, for a device that has nothing else of ours."""
