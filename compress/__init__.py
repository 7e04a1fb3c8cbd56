"""The training side: recipe, data, detectors, losses, the loop."""
