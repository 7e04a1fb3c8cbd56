"""Read `bundle.json` and check all of it: shapes, values, paths and hashes.

A bundle holds a copy of this file as `bundle_content.py`, so it imports nothing of ours.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict, cast

CONTENT = "bundle.json"
THRESHOLDS = "thresholds.json"
SESSION = "verify_"  # and a backend's name: the file that opens its artifacts
MAX_BYTES = 64_000_000  # of bundle.json; a bundle of four models has 100 kB
LONGEST_NUMBER = 20  # characters of a whole number of 64 bits
_PLAIN = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,200}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


MIN_SCORE = 0.05  # detections below are not expected, if there are better ones
# What the same file may differ by on another machine: kernels sum in another order, and INT8
# kernels of processors without VNNI round otherwise.
TOLERANCES = {
    "fp32": {"score": 2e-3, "box_px": 0.5},
    "fp16": {"score": 0.02, "box_px": 2.0},
    "int8": {"score": 0.08, "box_px": 4.0},
    "int8-trt": {"score": 0.08, "box_px": 4.0},
    "fp8": {"score": 0.08, "box_px": 4.0},
}
_LOOSEST = TOLERANCES["int8"]  # for a precision of a later version
_ROUNDING = 1e-6  # of scores in the file


class Nms(TypedDict):
    """The part of an artifact's NMS settings that is read here."""

    mode: str
    iou: float
    max_detections: int


class Artifact(TypedDict):
    """An entry of `artifacts` in `bundle.json`; a backend's session may read further keys."""

    name: str
    file: str  # path inside the bundle
    backend: str
    precision: str
    input: dict[str, object]  # `format` is float32 or uint8
    nms: Nms
    tolerance: dict[str, float]  # of a detection: score, box_px
    min_score: float
    extra_above: float
    expected: list[tuple[int, float, list[float]]]  # label, score, box xyxy in input pixels
    built_on: dict[str, str] | None  # of an engine, its machine


class Bundle(TypedDict):
    """The content of `bundle.json`."""

    schema: int
    name: str  # of the model
    classes: list[str]  # in the order of the labels
    default: str  # name of the artifact to take where none is named
    golden: dict[str, str]  # input, drawn: files of the golden picture
    artifacts: list[Artifact]
    files: dict[str, str]  # path -> SHA-256


class BundleError(Exception):
    """Something about the bundle, or what it finds, is not as promised."""


def read_bundle(folder: Path) -> Bundle:
    """Return the content of `bundle.json`, and make sure that every file is the one it lists.

    Raises:
        BundleError: naming the first key or file that is not as expected.
    """
    bundle = read_content(folder)
    check_files(folder, bundle["files"])
    return bundle


def read_content(folder: Path) -> Bundle:
    """Return the content of `bundle.json` with every key of the expected kind.

    Files are not looked at, except that none that is named may lie outside of the bundle.

    Raises:
        BundleError: naming the first key that is not as expected.
    """
    path = folder / CONTENT
    try:
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path.stat().st_size} bytes, expected at most {MAX_BYTES}")
        content = strict_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        said = error.strerror
        raise BundleError(
            f"{folder}: no bundle ({said}); name a folder that holds {CONTENT}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: is broken ({error}); unpack the bundle again") from None
    if not isinstance(content, dict):
        raise BundleError(f"{path}: holds {kind(content)}, expected an object; unpack it again")
    if content.get("schema") != 1 or content["schema"] is True:
        raise BundleError(f"{path}: schema is {as_json(content.get('schema'))}; expected 1")
    _Checker(path).bundle(content)
    return cast(Bundle, content)


def strict_json(text: str) -> object:
    """Read JSON without NaN, infinity, numbers of more than 64 bits and keys that stand twice.

    Raises:
        ValueError: it holds one of these, or is no JSON.
    """
    content: object = json.loads(
        text,
        parse_constant=_no_constant,
        parse_int=whole_number,
        object_pairs_hook=each_key_once,
    )
    return content


def whole_number(text: str) -> int:
    """Read an integer of a JSON file; no count, size or id needs more than 64 bits.

    Raises:
        ValueError: it is larger.
    """
    if len(text) <= LONGEST_NUMBER and abs(int(text)) < 2**63:
        return int(text)
    raise ValueError(f"the number {text[:LONGEST_NUMBER]}... has more than 64 bits")


def check_files(folder: Path, files: Mapping[str, str]) -> None:
    """Make sure that every file is in the bundle and has its hash.

    Args:
        folder: the bundle.
        files: path inside it -> SHA-256, as the bundle lists them.

    Raises:
        BundleError: naming the first file that is missing, differs, or is a link out of the bundle.
    """
    root = folder.resolve()
    for name, expected in files.items():
        path = folder / name
        try:
            if not path.resolve().is_relative_to(root):
                raise BundleError(f"{path}: a link out of the bundle; unpack it again")
            found = _sha256(path)
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
            said = error.strerror if isinstance(error, OSError) else error
            raise BundleError(f"{path}: missing ({said}); unpack it again") from None
        if found != expected:
            raise BundleError(
                f"{path}: damaged or changed (sha256 {found[:12]}…, the bundle lists "
                f"{expected[:12]}…); unpack it again"
            )


class _Checker:
    """Checks one `bundle.json`; every method raises BundleError with the key at fault."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def bundle(self, content: dict[str, Any]) -> None:
        files = self._get(content, "", "files", dict, "an object of path: SHA-256")
        for name, digest in files.items():
            self._inside(name, f"files.{as_json(name)}")
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
                self._fail(f"files.{as_json(name)}", digest, "a SHA-256 of 64 hexadecimal digits")
        if not isinstance(content.get("name"), str) or not content["name"]:
            self._fail("name", content.get("name"), "a text, the name of the model")
        classes = self._get(content, "", "classes", list, "a list of class names")
        if not classes or not all(isinstance(one, str) and one for one in classes):
            self._fail("classes", classes, "a list of at least one class name")
        self._listed("labels.txt", "the file of the classes", files)
        self._listed(THRESHOLDS, "the file of the thresholds", files)
        golden = self._get(content, "", "golden", dict, "an object of input and drawn")
        self._listed(self._text(golden, "golden.", "input"), "golden.input", files)
        artifacts = self._get(content, "", "artifacts", list, "a list of artifacts")
        if not artifacts:
            self._fail("artifacts", artifacts, "at least one artifact")
        names = set()
        for index, artifact in enumerate(artifacts):
            at = f"artifacts[{index}]"
            if not isinstance(artifact, dict):
                self._fail(at, artifact, "an object")
            name = self.artifact(artifact, f"{at}.", files)
            if name in names:
                self._fail(f"{at}.name", name, "a name of its own")
            names.add(name)
        if self._text(content, "", "default") not in names:
            self._fail("default", content["default"], f"one of {', '.join(sorted(names))}")

    def artifact(self, artifact: dict[str, Any], at: str, files: Mapping[str, str]) -> str:
        name = self._text(artifact, at, "name")
        self._text(artifact, at, "backend")
        precision = self._text(artifact, at, "precision")
        file = self._text(artifact, at, "file")
        self._listed(file, f"{at}file", files)
        self._listed(str(PurePosixPath(file).with_suffix(".json")), f"the sidecar of {file}", files)
        form = self._get(artifact, at, "input", dict, "an object of the input's settings")
        if form.get("format", "float32") not in ("float32", "uint8"):
            self._fail(f"{at}input.format", form["format"], "float32 or uint8")
        nms = self._get(artifact, at, "nms", dict, "an object of the NMS settings")
        self._text(nms, f"{at}nms.", "mode")
        self._number(nms, f"{at}nms.", "iou", 0, 1)
        most = nms.get("max_detections")
        if not is_whole(most) or not 1 <= most <= 1_000_000:
            self._fail(f"{at}nms.max_detections", most, "a whole number from 1")
        tolerance = self._get(artifact, at, "tolerance", dict, "an object of score and box_px")
        for key, most in TOLERANCES.get(precision, _LOOSEST).items():
            self._number(tolerance, f"{at}tolerance.", key, 0, most)
        self._number(artifact, at, "min_score", 0, MIN_SCORE)
        expected = self._get(artifact, at, "expected", list, "a list of detections")
        if not expected:
            self._fail(f"{at}expected", expected, "at least one detection: none proves nothing")
        for index, detection in enumerate(expected):
            if not _is_detection(detection):
                what = "[label, score in 0..1, [left, top, right, bottom]]"
                self._fail(f"{at}expected[{index}]", detection, what)
        best = max(score for _, score, _ in expected)
        highest = max(best, artifact["min_score"]) + tolerance["score"] + _ROUNDING
        self._number(artifact, at, "extra_above", 0, highest)
        count: Any = artifact.get("expected_count", len(expected))  # of earlier versions: none
        if not is_whole(count) or count < 1:
            self._fail(f"{at}expected_count", count, "a whole number from 1")
        built = artifact.get("built_on")
        if built is not None and not (
            isinstance(built, dict) and all(isinstance(value, str) for value in built.values())
        ):
            self._fail(f"{at}built_on", built, "null or an object of texts")
        return name

    def _get(self, owner: Mapping[str, Any], at: str, key: str, wanted: type, expected: str) -> Any:
        if not isinstance(owner.get(key), wanted):
            self._fail(f"{at}{key}", owner.get(key), expected)
        return owner[key]

    def _text(self, owner: Mapping[str, Any], at: str, key: str) -> str:
        value = owner.get(key)
        if not isinstance(value, str) or not _PLAIN.fullmatch(value):
            self._fail(f"{at}{key}", value, "a text of 1 to 200 characters on one line")
        return str(value)

    def _number(self, owner: Mapping[str, Any], at: str, key: str, low: float, high: float) -> None:
        value: Any = owner.get(key)
        if not _is_number(value) or not low <= value <= high:
            self._fail(f"{at}{key}", value, f"a number in {low:g}..{high:g}")

    def _listed(self, name: str, at: str, files: Mapping[str, str]) -> None:
        """Refuse a file that is outside of the bundle or has no hash."""
        self._inside(name, at)
        if name not in files:
            self._fail(at, name, "a file that `files` lists with its SHA-256")

    def _inside(self, name: str, at: str) -> None:
        path = PurePosixPath(name)
        if (
            not _PLAIN.fullmatch(name)
            or path.is_absolute()
            or ".." in path.parts
            or "\\" in name
            or ":" in name
            or path.as_posix() != name
        ):
            self._fail(at, name, "a path inside of the bundle, such as models/student/model.onnx")

    def _fail(self, at: str, found: object, expected: str) -> None:
        raise BundleError(
            f"{self._path}: {at} is {as_json(found)}; expected {expected}. Unpack the bundle again"
        )


def as_json(value: object) -> str:
    """Return a value as a message shows it: JSON in ASCII, cut."""
    if value is None:
        return "missing"
    try:
        text = json.dumps(value)
    except (ValueError, TypeError, RecursionError):
        text = kind(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


def kind(value: object) -> str:
    """Return the JSON name of a value's type."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")


def _is_detection(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 3:
        return False
    label, score, box = value
    return (
        is_whole(label)
        and 0 <= label < 2**31
        and _is_number(score)
        and 0 <= score <= 1
        and isinstance(box, list)
        and len(box) == 4
        and all(_is_number(side) and abs(side) < 1e9 for side in box)
    )


def is_whole(value: object) -> bool:
    """Whether a value of a JSON file is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e300 and math.isfinite(value)


def _no_constant(name: str) -> None:
    """Refuse NaN and infinity, which `json` would read.

    Raises:
        ValueError: always.
    """
    raise ValueError(f"{name} is no number of JSON")


def each_key_once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    """Make an object of a JSON file, of which Python would take the last of two equal keys.

    Raises:
        ValueError: a key stands twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        key = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {as_json(key)} stands twice in one object")
    return found


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise OSError(2, "no such file")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
