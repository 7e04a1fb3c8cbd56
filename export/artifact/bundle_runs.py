"""Run an artifact of a bundle on its golden picture and compare it with the expected detections.

A bundle holds a copy of this file as `bundle_runs.py`, so it imports nothing of ours but the files
beside it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING or __package__ == "export.artifact":
    from export.artifact.bundle_agreement import (
        Picture,
        check_count,
        differences,
        golden_picture,
        iou,
    )
    from export.artifact.bundle_content import SESSION, Artifact, Bundle, BundleError, Nms
    from export.artifact.int8_range import saturation_at
    from export.artifact.stored_numbers import broken_number
else:  # the copy in a bundle
    from bundle_agreement import Picture, check_count, differences, golden_picture, iou
    from bundle_content import SESSION, Artifact, Bundle, BundleError, Nms
    from int8_range import saturation_at
    from stored_numbers import broken_number

Batch: TypeAlias = NDArray[np.float32 | np.uint8]
# boxes (B, P, 4), scores (B, P), labels (B, P), perhaps more
Outputs: TypeAlias = Mapping[str, NDArray[np.generic]]


class Result(TypedDict):
    """The outcome of one artifact."""

    name: str
    result: Literal["ok", "failed", "skipped", "error"]
    said: str


class Detection(NamedTuple):
    """One box that an artifact found; the box is xyxy in input pixels."""

    label: int
    score: float
    box: NDArray[np.float64]


class Session(Protocol):
    """An artifact that a backend has opened."""

    batches: tuple[int, int]  # the smallest and the largest batch to try

    def run(self, batch: Batch) -> Outputs:
        """Return the outputs by name; a RuntimeError says what the runtime refuses."""

    def close(self) -> None:
        """Free it."""


class SessionModule(Protocol):
    """What `verify_<backend>.py` defines, without importing anything of ours."""

    BUILT: str | None  # file that `build_engines.sh` writes beside an ONNX file, if it does

    def open_session(self, path: Path, artifact: Mapping[str, object], device: str) -> Session:
        """Open the artifact at `path`.

        Raises:
            ImportError: the runtime is not installed.
            OSError: a library of the runtime is missing.
            RuntimeError: the runtime, this machine or the device refuses it; says what to do.
        """


class NotHereError(Exception):
    """This artifact cannot be checked on this machine, as a package is missing."""


def check(
    folder: Path,
    bundle: Bundle,
    artifact: Artifact,
    device: str,
    sessions: Mapping[str, SessionModule],
) -> Result:
    """Run one artifact on the golden picture; return `ok`, `failed` or `skipped`, and why."""
    path = folder / artifact["file"]
    caution = saturation_at(path, device)
    warning = "" if caution is None else f"; warning: {caution}"
    try:
        picture = golden_picture(folder / bundle["golden"]["input"], artifact["input"])
        session = open_session(path, artifact, device, sessions)
        try:
            broken = broken_number(path.read_bytes()) if path.suffix == ".onnx" else None
            if broken is not None:  # behind NMS in the graph it may look as if it found nothing
                raise BundleError(f"{broken}; the model is broken: pack a sound one")
            said = compare_runs(session, picture, artifact)
            check_count(artifact)
        finally:
            session.close()
    except NotHereError as error:
        return {"name": artifact["name"], "result": "skipped", "said": str(error)}
    except (BundleError, RuntimeError) as error:
        return {"name": artifact["name"], "result": "failed", "said": f"{error}{warning}"}
    return {"name": artifact["name"], "result": "ok", "said": said + warning}


def open_session(
    path: Path, artifact: Artifact, device: str, sessions: Mapping[str, SessionModule]
) -> Session:
    """Open an artifact with its backend's session file.

    Raises:
        RuntimeError: the runtime, this machine or the device refuses it.
        NotHereError: the runtime is not installed, or there is no session file of this backend.
    """
    if artifact["backend"] not in sessions:
        raise NotHereError(
            f"needs {SESSION}{artifact['backend']}.py, which opens its backend's artifacts, beside "
            "verify.py; run the copy inside the bundle"
        )
    try:
        return sessions[artifact["backend"]].open_session(path, artifact, device)
    except (ImportError, OSError) as error:
        raise NotHereError(str(error)) from None


def compare_runs(session: Session, picture: Picture, artifact: Artifact) -> str:
    """Compare with the expected detections: alone, again, and at both ends of a batch.

    Raises:
        BundleError: what differs.
    """
    smallest, largest = session.batches
    worst = (0.0, 0.0)
    times = [("", 0), (" at the second call", 0)]
    if largest > smallest:
        times += [(f" at place {place} of a batch of {largest}", place) for place in (0, -1)]
    for index, (when, place) in enumerate(times):
        size = smallest if index < 2 else largest
        canvases = [picture[::-1, ::-1]] * size  # a batch filled with rotated copies
        canvases[place] = picture
        outputs = session.run(_input(canvases, artifact["input"].get("format")))
        # Detections below the least expected score may be matched; they do not count as extra.
        found = select(outputs, place, artifact["nms"], artifact["min_score"] / 2)
        expected, tolerance = artifact["expected"], artifact["tolerance"]
        differs = differences(expected, found, tolerance, artifact["extra_above"])
        if isinstance(differs, str):
            raise BundleError(differs + when)
        worst = max(worst[0], differs[0]), max(worst[1], differs[1])
    count = len(artifact["expected"])
    return (
        f"{count} {'box' if count == 1 else 'boxes'} as expected, scores within {worst[0]:.2g}, "
        f"boxes within {worst[1]:.2g} px, in {len(times)} calls"
    )


def _input(canvases: Sequence[Picture], form: object) -> Batch:
    """Stack pictures to the graph's input: uint8 (B, H, W, 3), or float32 (B, 3, H, W) in 0..1."""
    stacked = np.stack(canvases)
    if form == "uint8":
        return stacked
    planes = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2), dtype=np.float32)
    scaled: Batch = planes / np.float32(255)
    return scaled


def select(outputs: Outputs, place: int, nms: Nms, threshold: float) -> list[Detection]:
    """Return what is above the threshold, best first, after NMS.

    Twice as many as the limit, so that near it every box can find its partner.
    """
    wanted = ("boxes", "scores", "labels")
    shapes = {name: outputs[name].shape for name in wanted if name in outputs}
    pairs = shapes.get("scores", ())
    if len(pairs) != 2 or shapes != {"boxes": (*pairs, 4), "scores": pairs, "labels": pairs}:
        found = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise BundleError(
            f"gives {found or 'no boxes'}; expected boxes (B, P, 4), scores (B, P), labels (B, P)"
        )
    boxes = outputs["boxes"][place].astype(np.float64)
    scores = outputs["scores"][place].astype(np.float64)
    labels = outputs["labels"][place].astype(np.int64)
    if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
        raise BundleError("boxes or scores are not finite")
    kept: list[Detection] = []
    for index in np.argsort(-scores, kind="stable"):
        if scores[index] <= threshold or len(kept) == 2 * nms["max_detections"]:
            break
        label, box = int(labels[index]), boxes[index]
        rivals = [other for known, _, other in kept if known == label]
        if nms["mode"] != "host" or all(iou(box, other) <= nms["iou"] for other in rivals):
            kept.append(Detection(label, float(scores[index]), box))
    return kept
