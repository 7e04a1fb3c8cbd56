"""Check a bundle on a device: every artifact must reproduce the expected detections.

`python -m export.verify BUNDLE`, or `python verify.py` inside of it. A bundle holds a copy of this
file and, beside it, `bundle_content.py`, which reads and checks `bundle.json`, `bundle_files.py`,
which looks for files that it does not list, `bundle_agreement.py`, which compares it with the other
files, `bundle_runs.py`, which runs the artifacts, `stored_numbers.py`, which looks for NaN in
weights, `bundle_output.py`, which prints, and a `verify_<backend>.py` for each backend's artifacts.
The copies need numpy and the runtime (onnxruntime, or tensorrt and cuda-python) alone.
"""

import argparse
import importlib.util
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING or __package__ == "export":
    from export.artifact.bundle_content import SESSION, Artifact, Bundle, BundleError, read_bundle
    from export.artifact.bundle_files import check_unlisted, warning_of
    from export.artifact.bundle_output import Parser, say
else:  # the copy in a bundle, whose folder `python -I` leaves out of the path
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from bundle_content import SESSION, Artifact, Bundle, BundleError, read_bundle
    from bundle_files import check_unlisted, warning_of
    from bundle_output import Parser, say

if TYPE_CHECKING:
    from export.artifact.bundle_runs import Result, SessionModule

DONE, MISSING_PACKAGE, BROKEN = 0, 4, 6  # as in export/errors.py, which is not part of a bundle


def main(arguments: Sequence[str] | None = None, prog: str = "verify") -> int:
    """Run the command line; return its exit code."""
    options = command_line(prog).parse_args(arguments)
    results: list[Result] = []
    try:
        for result in _checked(options):
            results.append(result)
            if not options.json:
                say(f"{result['result']:>7}  {result['name']}: {result['said']}")
    except BundleError as error:
        results.append({"name": str(options.bundle), "result": "error", "said": str(error)})
    except ModuleNotFoundError as error:
        said = f"needs numpy ({error}): pip install numpy"
        results.append({"name": str(options.bundle), "result": "skipped", "said": said})
    code = exit_code([result["result"] for result in results])
    if options.json:
        print(json.dumps({"exit_code": code, "results": results}))
    elif code:
        sys.stdout.flush()
        say(f"error: {_summary(options.bundle, results)}", sys.stderr)
    return code


def _checked(options: argparse.Namespace) -> "Iterator[Result]":
    """Check the bundle, then every artifact.

    Raises:
        BundleError: the bundle is damaged, or has no such artifact.
    """
    # here, since the help of the command needs no numpy, which is slow to import
    if TYPE_CHECKING or __package__ == "export":
        from export.artifact.bundle_agreement import check_agreement
        from export.artifact.bundle_runs import check
    else:
        from bundle_agreement import check_agreement
        from bundle_runs import check

    bundle = read_bundle(options.bundle)
    sessions = load_sessions(bundle["files"])
    strays = check_unlisted(options.bundle, bundle["files"], built_files(sessions))
    if strays:
        say(f"warning: {options.bundle}: {warning_of(strays)}", sys.stderr)
    check_agreement(options.bundle, bundle)
    for artifact in chosen(options.bundle, bundle, options.artifact, sessions):
        yield check(options.bundle, bundle, artifact, options.device, sessions)


def _summary(folder: Path, results: "Sequence[Result]") -> str:
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


def load_sessions(listed: Collection[str]) -> "dict[str, SessionModule]":
    """Import the session file of every backend; none of them imports its runtime by that."""
    loaded: dict[str, SessionModule] = {}
    for name, path in session_files(listed).items():
        spec = importlib.util.spec_from_file_location(f"{SESSION}{name}", path)
        assert spec is not None  # the name ends in .py
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        loaded[name] = cast("SessionModule", module)
    return loaded


def built_files(sessions: "Mapping[str, SessionModule]") -> set[str]:
    """Return the names of files that `build_engines.sh` writes beside an ONNX file."""
    return {session.BUILT for session in sessions.values() if session.BUILT is not None}


def chosen(
    folder: Path, bundle: Bundle, name: str | None, sessions: "Mapping[str, SessionModule]"
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


def some_path(text: str) -> Path:
    """Read a path; an empty one would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; name a file or a folder")
    return Path(text)


def command_line(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = Parser(
        prog=prog,
        description="Check that the models of a bundle give the expected boxes on this machine.",
        epilog="exit codes: 0 all that could be checked is as expected, 1 other failure, 4 nothing "
        "could be checked because a package is missing, 6 something differs",
    )
    if __package__ == "export":
        parser.add_argument(
            "bundle",
            type=some_path,
            metavar="BUNDLE",
            help="folder of the bundle; `slimdet verify` also takes a bundle.tar.gz or a run",
        )
    else:
        parser.add_argument(
            "bundle",
            type=some_path,
            nargs="?",
            default=Path(__file__).resolve().parent,
            metavar="BUNDLE",
            help="folder of the bundle (default: this file's folder)",
        )
    parser.add_argument("--artifact", metavar="NAME", help="check this artifact alone")
    # the older name
    parser.add_argument("--only", dest="artifact", help=argparse.SUPPRESS)
    parser.add_argument(
        "--device",
        default="cpu",
        help="device of ONNX Runtime: cpu, cuda or tensorrt (default: cpu)",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
