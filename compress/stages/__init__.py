"""The stages of a run, each from finished room to finished room."""
