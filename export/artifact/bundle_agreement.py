"""Compare `bundle.json` with the files of the bundle that state the same.

A bundle holds a copy of this file as `bundle_agreement.py`, so it imports nothing of ours but
`bundle_content.py` beside it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING or __package__ == "export.artifact":
    from export.artifact import bundle_content
    from export.artifact.bundle_content import CONTENT, Bundle, BundleError, as_json
else:  # the copy in a bundle
    import bundle_content
    from bundle_content import CONTENT, Bundle, BundleError, as_json

MIN_IOU = 0.5
Picture: TypeAlias = NDArray[np.uint8]  # (H, W, 3) RGB


def check_agreement(folder: Path, bundle: Bundle) -> None:
    """Compare `bundle.json` with the files that state the same: labels, thresholds, sidecars.

    A sidecar of an older version states less; what it does not state is not compared.

    Raises:
        BundleError: naming the first key that differs.
    """
    for index, artifact in enumerate(bundle["artifacts"]):
        side = PurePosixPath(artifact["file"]).with_suffix(".json").as_posix()
        stated = _read_object(folder, side)
        at = f"artifacts[{index}]."
        for key in ("input", "nms", "backend", "precision"):
            if key in stated:
                _same(folder, at + key, cast(Any, artifact)[key], stated[key], f"{side} ({key})")
        file = stated.get("artifact")
        if file is not None:
            name = PurePosixPath(artifact["file"]).name
            _same(folder, f"{at}file", name, file, f"{side} (artifact)")
        digest = stated.get("sha256")
        if digest is not None:
            own = bundle["files"][artifact["file"]]
            _same(folder, f"files.{as_json(artifact['file'])}", own, digest, f"{side} (sha256)")
        _check_numbers(folder / side, stated)
        if "classes" in stated:
            _same(folder, "classes", bundle["classes"], stated["classes"], f"{side} (classes)")
        if artifact["name"] == bundle["default"]:
            _check_thresholds(folder, stated, side)
    # split at line feeds alone, as they are written: other separators stand in no name
    labels = _read(folder, "labels.txt").removesuffix("\n").split("\n")
    _same(folder, "classes", bundle["classes"], labels, "labels.txt")


def _check_numbers(side: Path, stated: Mapping[str, Any]) -> None:
    """Refuse numbers of a sidecar that no export writes."""
    least = {"parameters": 0, "opset": 10}  # opset 10 has the first NMS
    for key, low in least.items():
        value = stated.get(key)
        if value is not None and not (bundle_content.is_whole(value) and value >= low):
            raise BundleError(
                f"{side}: {key} is {as_json(value)}; expected a whole number from {low}. Unpack "
                "the bundle again"
            )
    ids = stated.get("category_ids")
    if ids is not None and not (
        isinstance(ids, list)
        and all(bundle_content.is_whole(one) and one >= 0 for one in ids)
        and len(set(ids)) == len(ids)
    ):
        raise BundleError(
            f"{side}: category_ids is {as_json(ids)}; expected whole numbers from 0, all "
            "different. Unpack the bundle again"
        )


def _check_thresholds(folder: Path, stated: Mapping[str, Any], side: str) -> None:
    nms = stated.get("nms")
    known = {
        "score": stated.get("score_threshold"),
        "evaluation_score": stated.get("evaluation_score_threshold"),
        "nms_iou": nms.get("iou") if isinstance(nms, dict) else None,
        "max_detections": nms.get("max_detections") if isinstance(nms, dict) else None,
    }
    found = _read_object(folder, bundle_content.THRESHOLDS)
    if "nms" in found:  # bundles of earlier versions do not state it there
        known["nms"] = nms.get("mode") if isinstance(nms, dict) else None
    for key, value in known.items():
        if value is not None:
            _same(folder, key, found.get(key), value, side, bundle_content.THRESHOLDS)


def _same(
    folder: Path, at: str, found: object, expected: object, source: str, file: str = CONTENT
) -> None:
    """Refuse a value that differs from the one that `source` states; of objects, each key."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for key, value in expected.items():
            _same(folder, f"{at}.{key}", found.get(key), value, source, file)
    elif found != expected or isinstance(found, bool) != isinstance(expected, bool):
        raise BundleError(
            f"{folder / file}: {at} is {as_json(found)}; expected {as_json(expected)}, as {source} "
            "states. Unpack the bundle again"
        )


def check_count(artifact: Mapping[str, Any]) -> None:
    """Refuse a list of expected boxes that is shorter or longer than the one that was written.

    Raises:
        BundleError: it is.
    """
    count, found = artifact.get("expected_count"), len(artifact["expected"])
    least, score = artifact["min_score"], artifact["tolerance"]["score"]
    if artifact["extra_above"] > least + score + 1e-6:
        # Where NMS gave as many boxes as it may, the better half was written.
        half = (artifact["nms"]["max_detections"] + 1) // 2
        if count not in (None, half):
            raise BundleError(
                f"{CONTENT}: extra_above is {artifact['extra_above']:g}; expected at most "
                f"{least + score:g}, min_score and the tolerance, as {count} boxes were written "
                "there; unpack the bundle again"
            )
        count = half
    if count is not None and found != count:
        raise BundleError(
            f"{CONTENT}: expected holds {found} boxes, and {count} were written there; unpack the "
            "bundle again"
        )


def golden_picture(path: Path, form: Mapping[str, object]) -> Picture:
    """Return the canvas that every artifact is run on.

    Args:
        path: npy file of the picture.
        form: `input` of an artifact.

    Raises:
        BundleError: the file holds something else than a picture of the input's size.
    """
    try:
        with path.open("rb") as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"npy of version {version}, expected (1, 0)")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
            pixels = stream.read()
    except Exception as error:  # of files, headers, sizes and the tokenizer that reads them
        said = str(error).splitlines() or [type(error).__name__]
        raise BundleError(f"{path}: cannot be read ({said[0]}); unpack the bundle again") from None
    if dtype != np.uint8 or fortran or shape[2:] != (3,) or len(pixels) != math.prod(shape):
        raise BundleError(
            f"{path}: holds {len(pixels)} bytes of {shape} {dtype}; expected a picture, (H, W, 3) "
            "uint8"
        )
    for key, side in zip(("height", "width"), shape, strict=False):
        if form.get(key, side) != side:
            raise BundleError(
                f"input.{key} is {as_json(form[key])}, and the golden picture {path.name} has "
                f"{side}; unpack the bundle again"
            )
    return np.frombuffer(pixels, dtype=np.uint8).reshape(shape)


def _read(folder: Path, name: str) -> str:
    try:
        if (folder / name).stat().st_size > bundle_content.MAX_BYTES:
            raise ValueError(f"more than {bundle_content.MAX_BYTES} bytes")
        return (folder / name).read_bytes().decode()
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise BundleError(
            f"{folder / name}: cannot be read ({said}); unpack the bundle again"
        ) from None


def _read_object(folder: Path, name: str) -> dict[str, Any]:
    try:
        content: object = json.loads(_read(folder, name), parse_int=bundle_content.whole_number)
    except (ValueError, RecursionError) as error:
        said = f"no JSON: {error}"
    else:
        if isinstance(content, dict):
            return content
        said = bundle_content.kind(content)
    raise BundleError(f"{folder / name}: holds {said}; expected an object. Unpack the bundle again")


def differences(
    expected: Sequence[tuple[int, float, list[float]]],
    found: Sequence[tuple[int, float, NDArray[np.float64]]],
    tolerance: Mapping[str, float],
    extra_above: float,
) -> tuple[float, float] | str:
    """Return the largest difference of a score and of a box side, or in words what is wrong.

    Of what was found, scores below `extra_above` may go unmatched.
    """
    pairs = []
    for i, (label, score, box) in enumerate(expected):
        for j, (other_label, other_score, other_box) in enumerate(found):
            overlap = iou(np.asarray(box, dtype=np.float64), other_box)
            if label == other_label and overlap >= MIN_IOU:
                pairs.append((abs(score - other_score) + 1 - overlap, i, j))
    ours: dict[int, int] = {}
    for _, i, j in sorted(pairs):  # the closest pairs first, so that neighbours are not swapped
        if i not in ours and j not in ours.values():
            ours[i] = j
    missing = [i for i in range(len(expected)) if i not in ours]
    extra = [
        j
        for j, (_, score, _) in enumerate(found)
        if score >= extra_above and j not in ours.values()
    ]
    if missing or extra:
        return f"{len(missing)} of {len(expected)} expected boxes missing, {len(extra)} too many"
    scores = [abs(expected[i][1] - found[j][1]) for i, j in ours.items()]
    sides = [float(np.abs(np.asarray(expected[i][2]) - found[j][2]).max()) for i, j in ours.items()]
    worst = max(scores, default=0.0), max(sides, default=0.0)
    if worst[0] > tolerance["score"] or worst[1] > tolerance["box_px"]:
        return (
            f"scores differ by up to {worst[0]:.3g} (allowed {tolerance['score']:g}), boxes by up "
            f"to {worst[1]:.3g} px (allowed {tolerance['box_px']:g})"
        )
    return worst


def iou(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Return the intersection over union of two boxes, xyxy; of two without an area, 0 or 1."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    shared = float(np.prod(np.maximum(high - low, 0)))
    union = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2])) - shared
    return shared / union if union > 0 else float(np.abs(one - other).max() < 1)
