"""A backend in one file, as somebody would add it: it finds one bright rectangle, in numpy.

A bundle gets a copy of this file, so at the top it imports nothing of ours.
"""

import hashlib
import json
import time
from pathlib import Path

import numpy as np

BUILT = "model.toy"


def bright_box(images, brightness):
    """(B, 3, H, W) in 0..1 -> boxes (B, 1, 4), scores (B, 1), labels (B, 1): 0 red, 1 green."""
    boxes = np.zeros((len(images), 1, 4), np.float32)
    scores = np.full((len(images), 1), -1, np.float32)
    labels = np.zeros((len(images), 1), np.int32)
    for index, image in enumerate(images):
        bright = image > brightness
        if bright.any():
            rows, columns = np.where(bright.any(axis=0))
            boxes[index] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            scores[index] = 0.9
            labels[index] = bright.sum(axis=(1, 2)).argmax()
    return {"boxes": boxes, "scores": scores, "labels": labels}


class ToyEngine:
    """An engine on a pretended device that measures its own time."""

    device = "toybox"
    clock = "the toy's clock"

    def __init__(self, path):
        from export.artifact.manifest import read_manifest

        self.path, self.manifest = path, read_manifest(path.with_suffix(".json"))

    def __enter__(self):
        self.brightness = json.loads(self.path.read_text())["brightness"]
        return self

    def __exit__(self, kind, error, trace):
        pass

    def candidates(self, images):
        from export.detections import Candidates

        return Candidates(**bright_box(images, self.brightness))

    def upload(self, images):
        self.images = images

    def enqueue(self):
        self.outputs = bright_box(self.images, self.brightness)

    def synchronize(self):
        pass

    def pass_ms(self):
        start = time.perf_counter_ns()
        self.enqueue()
        return (time.perf_counter_ns() - start) / 1e6


class ToyBackend:
    """The entry of `BACKENDS`."""

    devices = ("toybox",)
    graphs = {"fp32": "fp32"}  # noqa: RUF012
    runs_graphs = False
    packages = "nothing"
    session = Path(__file__)

    def requirements(self):
        return {"the toy": ()}

    def open(self, path, settings):
        del settings
        return ToyEngine(path)

    def add_options(self, parser):
        parser.add_argument_group("toy").add_argument("--brightness", type=float, default=0.5)

    def check(self, model, settings):
        pass

    def build(self, graph, folder, settings):
        from export.artifact.manifest import read_manifest, write_manifest

        content = json.dumps({"brightness": settings["brightness"]})
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / BUILT
        path.write_text(content)
        changes = {
            "backend": "toy",
            "artifact": path.name,
            "sha256": hashlib.sha256(content.encode()).hexdigest(),
        }
        manifest = read_manifest(graph.with_suffix(".json")).model_copy(update=changes)
        write_manifest(manifest, path.with_suffix(".json"))
        return path

    def summary(self, path):
        return f"{path}: a toy"

    def made_for(self, manifest):
        return f"children of {manifest.family}"

    def triton(self, manifest):
        from export.backends.interface import Triton

        return Triton("python", "model.py", (f"# a toy of {manifest.family}",))

    def script(self, files):
        return [f"echo {file}" for file, manifest in files.items() if manifest.backend == "toy"]


class ToySession:
    """An artifact opened for `verify.py`."""

    batches = (1, 2)

    def __init__(self, brightness):
        self.brightness = brightness

    def run(self, batch):
        return bright_box(batch, self.brightness)

    def close(self):
        pass


def open_session(path, artifact, device):
    assert (artifact["backend"], device) == ("toy", "cpu")
    return ToySession(json.loads(path.read_text())["brightness"])
