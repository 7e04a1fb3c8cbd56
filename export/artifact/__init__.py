"""The artifact's sidecar and manifest, and the text of a bundle."""
