"""`model.json`: everything needed to run the artifact beside it."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, PositiveInt, ValidationError, model_validator
from typing_extensions import Self

from export.artifact.bundle_content import each_key_once, whole_number
from export.artifact.machine import EngineRecord
from export.artifact.preprocessing import VERSION, Preprocessing
from export.atomic import write_bytes
from export.config import Section
from export.errors import ExportError, counted, shown, unsafe_character

# Precisions of ONNX files that TensorRT's builder is to read: what they compute can be checked in
# ONNX Runtime, their speed cannot.
MADE_FOR_TENSORRT = frozenset({"int8-trt", "fp8"})


NOTICE = "licence notice"  # key of `Manifest.made_by`, in the place of a package
MAX_SIDE = 16384  # pixels of an input's side; one picture of that size has 800 MB
MAX_DETECTIONS = 1_000_000  # of a picture


class InputSpec(Section):
    """The tensor that the artifact takes; `export.pictures.images.to_input` makes it.

    With `format` float32 it is (B, 3, height, width) RGB in 0..1, with uint8 it is
    (B, height, width, 3) RGB in 0..255. A picture is letterboxed into it: scaled to fit, laid at
    the top left, the rest filled with `fill`. Mean and standard deviation are inside the graph.
    Sidecars made before the preprocessing was stated have none; `UNSTATED` says what that means.
    """

    name: str = "images"
    format: Literal["float32", "uint8"] = "float32"
    height: PositiveInt = Field(le=MAX_SIDE)
    width: PositiveInt = Field(le=MAX_SIDE)
    fill: int = Field(default=114, ge=0, le=255)
    dynamic_batch: bool = False
    preprocessing: Preprocessing | None = None

    @property
    def bit_depth(self) -> int | None:
        """Bits in use of 16-bit pictures, as `Preprocessing` says; all, where it is not stated."""
        return 16 if self.preprocessing is None else self.preprocessing.bit_depth

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Of one picture in the tensor."""
        plane = (self.height, self.width)
        return (*plane, 3) if self.format == "uint8" else (3, *plane)


class NmsSpec(Section):
    """How candidate boxes become detections.

    Modes: `host` leaves NMS to `export.detections`; `graph` (NonMaxSuppression) and `matrix`
    (greedy NMS as a fixed number of matrix products) have it inside, and the graph gives `num`,
    `boxes`, `scores` and `labels`, best first; `none` needs no NMS, as the head gives one box per
    object. `iou` is then 1, at which NMS drops nothing.
    """

    mode: Literal["host", "graph", "matrix", "none"] = "host"
    iou: float = Field(default=0.6, gt=0, le=1)
    max_detections: PositiveInt = Field(default=100, le=MAX_DETECTIONS)
    rounds: PositiveInt | None = None  # of the matrix form

    @property
    def in_graph(self) -> bool:
        """Whether the graph's outputs are detections already."""
        return self.mode in {"graph", "matrix"}


class Certificate(Section):
    """Data types in which an artifact computes.

    Attributes:
        nodes: data type -> how many Conv, Gemm and MatMul nodes with stored weights; of a TensorRT
            engine, how many of its layers that compute.
        time: data type -> share of the measured time, all operators; empty where not measured.
        measured_on: the runtime of `time`.
        problem: why the precision is not proven; None if it is. An artifact that contradicts its
            precision is never written.
    """

    nodes: dict[str, int]
    time: dict[str, float] = Field(default_factory=dict)
    measured_on: str | None = None
    problem: str | None = None


class Manifest(Section):
    """The sidecar of one artifact.

    Scores: `score_threshold` is for use, `evaluation_score_threshold` for measuring AP, where
    COCO's rules include the low-scored boxes.
    """

    model_config = ConfigDict(populate_by_name=True)

    schema_version: Literal[1] = Field(default=1, alias="schema")
    model: str  # role in the report: teacher, baseline, baseline_equal_time, student
    family: str
    backend: str  # torch, onnxruntime, tensorrt
    precision: str  # fp32, fp16, int8 (for CPUs), int8-trt (for TensorRT), fp8
    artifact: str | None = None  # file name beside this sidecar; None for torch
    sha256: str | None = None  # of the artifact
    parameters: int = Field(ge=0)
    input: InputSpec
    classes: tuple[str, ...]
    category_ids: tuple[int, ...]  # of the dataset, in the order of `classes`
    nms: NmsSpec = NmsSpec()
    score_threshold: float = Field(default=0.25, ge=0, le=1)
    evaluation_score_threshold: float = Field(default=0.001, ge=0, le=1)
    opset: int | None = Field(default=None, ge=10, le=99)  # 10 has the first NMS
    # package -> version; also NOTICE -> a text, where a package has another licence than slimdet
    made_by: dict[str, str] = Field(default_factory=dict)
    parity: dict[str, Any] = Field(default_factory=dict)  # against torch, on real images
    quantization: dict[str, Any] = Field(default_factory=dict)
    certificate: Certificate | None = None
    engine: EngineRecord | None = None  # of a TensorRT plan

    @model_validator(mode="after")
    def _one_id_per_class(self) -> Self:
        if len(self.category_ids) != len(self.classes):
            raise ValueError(
                f"{len(self.category_ids)} category_ids for "
                f"{counted(len(self.classes), 'class', 'classes')}; expected one each"
            )
        if not self.classes:
            raise ValueError("classes is empty; a detector has at least one")
        for name in self.classes:
            unsafe = unsafe_character(name)
            if not name.strip() or unsafe:
                what = f"with the character {unsafe}" if unsafe else "that is empty"
                raise ValueError(f"a class name {what} ({shown(name)}) cannot stand in labels.txt")
        for values, what in ((self.category_ids, "category_ids"), (self.classes, "classes")):
            twice = next((one for one in values if values.count(one) > 1), None)
            if twice is not None:
                raise ValueError(f"{what} holds {shown(twice)} twice; expected all different")
        if min(self.category_ids) < 0:
            raise ValueError(f"category_ids holds {min(self.category_ids)}; expected 0 or more")
        if self.artifact is not None and Path(self.artifact).name != self.artifact:
            raise ValueError(f"artifact is {shown(self.artifact)}; expected a file name alone")
        return self


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write `manifest` to `path`, whole or not at all."""
    write_bytes(manifest_bytes(manifest), path)


def manifest_bytes(manifest: Manifest) -> bytes:
    """Return the sidecar's content."""
    return (manifest.model_dump_json(indent=2, by_alias=True) + "\n").encode()


def read_manifest(path: Path) -> Manifest:
    """Read the sidecar at `path`.

    Raises:
        ExportError: it is missing, broken, of another schema, or holds unknown keys.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ExportError(
            f"{path}: the sidecar of the model cannot be read ({error.strerror}); "
            "keep model.json beside the model it was made with"
        ) from None
    try:
        content = json.loads(text, parse_int=whole_number, object_pairs_hook=each_key_once)
    except (ValueError, RecursionError) as error:
        raise ExportError(f"{path}: not a JSON object ({error}); export the model again") from None
    if not isinstance(content, dict):
        raise ExportError(
            f"{path}: not a JSON object (found {shown(content)}); export the model again"
        )
    schema = content.get("schema", 1)
    if schema != 1 or schema is True:
        raise ExportError(
            f"{path}: schema {shown(schema)}, and this version reads schema 1; "
            "export the model again, or use the version that wrote it"
        )
    _require_known_preprocessing(content, path)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        # Here, since it loads yaml, for which a device has no use.
        from export.reading.mistakes import all_described

        raise ExportError(
            f"{path}: not a sidecar of a model: {all_described(error)}; export the model again"
        ) from None


def _require_known_preprocessing(content: dict[str, Any], path: Path) -> None:
    """Refuse a contract of another version by its version, not by the keys that it adds."""
    tensor = content.get("input")
    stated = tensor.get("preprocessing") if isinstance(tensor, dict) else None
    version = stated.get("version", VERSION) if isinstance(stated, dict) else VERSION
    if version != VERSION:
        raise ExportError(
            f"{path}: input.preprocessing is of version {shown(version)}, and this version of "
            f"slimdet does {VERSION}, other pixels; use the version that exported the model"
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
