"""Check a bundle on a device: every artifact must reproduce the expected detections.

`python -m export.verify BUNDLE`, or `python verify.py` inside of it. A bundle holds a copy of this
file and, beside it, `bundle_content.py`, which reads and checks `bundle.json`, `bundle_files.py`,
which looks for files that it does not list, `bundle_agreement.py`, which compares it with the other
files, `stored_numbers.py`, which looks for NaN in weights, `bundle_output.py`, which prints, and a
`verify_<backend>.py` for each backend's artifacts. The copies need numpy and the runtime
(onnxruntime, or tensorrt and cuda-python) alone.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypeAlias, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING or __package__ == "export":
    from export.artifact.bundle_agreement import (
        Picture,
        check_agreement,
        check_count,
        differences,
        golden_picture,
        iou,
    )
    from export.artifact.bundle_content import Artifact, Bundle, BundleError, Nms, read_bundle
    from export.artifact.bundle_files import check_unlisted, warning_of
    from export.artifact.bundle_output import Parser, say
    from export.artifact.int8_range import saturation_at
    from export.artifact.stored_numbers import broken_number
else:  # the copy in a bundle, whose folder `python -I` leaves out of the path
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from bundle_agreement import (
        Picture,
        check_agreement,
        check_count,
        differences,
        golden_picture,
        iou,
    )
    from bundle_content import Artifact, Bundle, BundleError, Nms, read_bundle
    from bundle_files import check_unlisted, warning_of
    from bundle_output import Parser, say
    from int8_range import saturation_at
    from stored_numbers import broken_number

DONE, MISSING_PACKAGE, BROKEN = 0, 4, 6  # as in export/errors.py, which is not part of a bundle
SESSION = "verify_"  # and the backend's name: a file beside the copy of this one in a bundle
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


def main(arguments: Sequence[str] | None = None, prog: str = "verify") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    results: list[Result] = []
    try:
        bundle = read_bundle(options.bundle)
        sessions = load_sessions(bundle["files"])
        strays = check_unlisted(options.bundle, bundle["files"], built_files(sessions))
        if strays:
            say(f"warning: {options.bundle}: {warning_of(strays)}", sys.stderr)
        check_agreement(options.bundle, bundle)
        for artifact in chosen(options.bundle, bundle, options.artifact, sessions):
            results.append(check(options.bundle, bundle, artifact, options.device, sessions))
            if not options.json:
                say(f"{results[-1]['result']:>7}  {results[-1]['name']}: {results[-1]['said']}")
    except BundleError as error:
        results.append({"name": str(options.bundle), "result": "error", "said": str(error)})
    code = exit_code([result["result"] for result in results])
    if options.json:
        print(json.dumps({"exit_code": code, "results": results}))
    elif code:
        sys.stdout.flush()
        say(f"error: {_summary(options.bundle, results)}", sys.stderr)
    return code


def _summary(folder: Path, results: Sequence[Result]) -> str:
    """Return in one line why not all is as expected."""
    if results[-1]["result"] == "error":
        return results[-1]["said"]
    failed = [result for result in results if result["result"] == "failed"]
    if not failed:
        return f"{folder}: no artifact can be checked here: {results[0]['said']}"
    count = f"{len(failed)} of {len(results)} artifact{'' if len(results) == 1 else 's'} failed"
    return f"{folder}: {count}, the first: {failed[0]['name']}: {failed[0]['said']}"


def exit_code(results: Sequence[str]) -> int:
    """Return 6 where anything failed, 4 where nothing could be checked, else 0."""
    if any(result in ("failed", "error") for result in results):
        return BROKEN
    return DONE if "ok" in results else MISSING_PACKAGE


def session_files(listed: Collection[str]) -> dict[str, Path]:
    """Return backend -> the file that opens its artifacts.

    They lie beside a copy of this file in a bundle, which must list them in `listed` with their
    hashes. Inside the package they are the backends' own, so that verifying a bundle never runs
    code that came with it.
    """
    if __package__ == "export":
        from export.backends import BACKENDS

        return {name: backend.session for name, backend in BACKENDS.items()}
    here = Path(__file__).resolve().parent
    paths = [path for path in sorted(here.glob(f"{SESSION}*.py")) if path.name in listed]
    return {path.stem.removeprefix(SESSION): path for path in paths}


def load_sessions(listed: Collection[str]) -> dict[str, SessionModule]:
    """Import the session file of every backend; none of them imports its runtime by that."""
    loaded: dict[str, SessionModule] = {}
    for name, path in session_files(listed).items():
        spec = importlib.util.spec_from_file_location(f"{SESSION}{name}", path)
        assert spec is not None  # the name ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loaded[name] = cast(SessionModule, module)
    return loaded


def built_files(sessions: Mapping[str, SessionModule]) -> set[str]:
    """Return the names of files that `build_engines.sh` writes beside an ONNX file."""
    return {session.BUILT for session in sessions.values() if session.BUILT is not None}


def chosen(
    folder: Path, bundle: Bundle, name: str | None, sessions: Mapping[str, SessionModule]
) -> list[Artifact]:
    """Return the artifacts to check; an engine built here beside an ONNX file is one more.

    Raises:
        BundleError: there is none of the name asked for.
    """
    found: list[Artifact] = []
    for artifact in bundle["artifacts"]:
        found.append(artifact)
        for backend, session in sessions.items():
            if session.BUILT is None or not artifact["file"].endswith(".onnx"):
                continue
            built = folder / Path(artifact["file"]).with_name(session.BUILT)
            if built.is_file():
                here = artifact.copy()
                here["name"] = f"{artifact['name']} (engine built here)"
                here["file"] = built.relative_to(folder).as_posix()
                here["backend"], here["built_on"] = backend, None
                found.append(here)
    if name is not None:
        names = ", ".join(artifact["name"] for artifact in found)
        found = [artifact for artifact in found if artifact["name"] == name]
        if not found:
            raise BundleError(f"{folder}: holds no artifact {name!r}, but {names}")
    return found


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
            f"{Path(__file__).name}; run the copy inside the bundle"
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


def some_path(text: str) -> Path:
    """Read a path; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; name a file or a folder")
    return Path(text)


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog=prog,
        description="Check that a bundle finds on this machine what it found where it was made.",
        epilog="exit codes: 0 all that could be checked is as expected, 1 other failure, 4 nothing "
        "could be for want of a package, 6 something differs",
    )
    if __package__ == "export":
        parser.add_argument(
            "bundle",
            type=some_path,
            metavar="BUNDLE",
            help="the folder; `slimdet verify` also takes bundle.tar.gz, or the folder of a run",
        )
    else:
        parser.add_argument(
            "bundle",
            type=some_path,
            nargs="?",
            default=Path(__file__).resolve().parent,
            metavar="BUNDLE",
            help="the folder (default: the one this file lies in)",
        )
    parser.add_argument("--artifact", metavar="NAME", help="check this artifact alone")
    # the older name
    parser.add_argument("--only", dest="artifact", help=argparse.SUPPRESS)
    parser.add_argument(
        "--device", default="cpu", help="of ONNX Runtime: cpu, cuda or tensorrt (default: cpu)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
