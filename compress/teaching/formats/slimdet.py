"""Artifacts of slimdet: a run's, a bundle's or those of `build`, with their sidecar."""

from compress.teaching.formats.graph import Fit, Graph, Pixels
from export.detections import Candidates


def read(graph: Graph) -> Fit | str:
    """Take what the sidecar states."""
    manifest = graph.manifest
    if manifest is None:
        return graph.sidecar
    return Fit(
        why=f"its sidecar: {manifest.family}, {manifest.backend} {manifest.precision}",
        num_classes=len(manifest.classes),
        pixels=Pixels(fill=manifest.input.fill),
        nms=manifest.nms,
        decode=Candidates.from_outputs,
        classes=manifest.classes,
        manifest=manifest,
    )
