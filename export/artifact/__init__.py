"""The artifact's sidecar and manifest."""
