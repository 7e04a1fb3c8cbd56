"""The recipe: all settings of a run, validated as a whole."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import (
    AliasChoices,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import Self

from benchmarks.gates import LIMITS, GatesConfig
from benchmarks.timing.latency import BenchmarkConfig
from compress.data.config import DataConfig
from compress.detectors import DetectorConfig
from compress.losses import LossConfig
from compress.recipe_file import load_model, read_model
from compress.recipe_source import Source, Tree
from compress.recipe_weights import fill_from_weights
from compress.teaching.config import BackboneTeacher, OnnxTeacher, PredictionsTeacher
from compress.tracking.open import TrackerName
from compress.training.optim import TrainConfig
from export.config import EACH_ONCE, MOST_SEED, ClashError, PositiveInt, Section, Seed
from export.reading.mistakes import brief

Given = TypeVar("Given")


def _is_one(value: object) -> object:
    if type(value) is not int or value != 1:  # true and 1.0 are equal to 1
        raise ValueError(f"expected 1, the version of recipes, found {brief(value)}")
    return value


Version = Annotated[Literal[1], BeforeValidator(_is_one)]


class TeacherConfig(Section):
    """A detector that is trained here (`train`) or loaded (`detector.weights`).

    Attributes:
        data: training data of the teacher; None for the recipe's own data.
        classes: class names of a loaded teacher, in the order of its labels; None for those that
            its weights file states, else the data's.
        strict: whether a weights file must match completely; false reports what does not match.
        precision: number format of the teacher's forward pass; `train`: that of the training.
    """

    detector: DetectorConfig
    train: TrainConfig | None = None
    data: DataConfig | None = None
    classes: tuple[str, ...] | None = None
    strict: bool = True
    precision: Literal["train", "fp32", "bf16"] = "train"

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.train is None) == (self.detector.weights is None):
            raise ClashError(
                "give exactly one of train (to train the teacher here) and detector.weights "
                "(a file to load it from)",
                *("train", ("detector", "weights")),
            )
        if self.data is not None and self.train is None:
            raise ClashError(
                "data is only for a teacher that is trained here (give train)", "data", "train"
            )
        if self.classes is not None:
            if self.train is not None:
                raise ClashError(
                    "classes is only for a loaded teacher (detector.weights); one that is trained "
                    "here knows those of its data",
                    *("classes", "train"),
                )
            if not self.classes or len(set(self.classes)) < len(self.classes):
                raise ClashError("classes must name each class of the teacher once", "classes")
        return self


FileTeacher = PredictionsTeacher | OnnxTeacher


def _kind_of_teacher(value: object) -> str:
    # tags that read like the types they stand for are left out of a mistake's key
    if isinstance(value, list | tuple):
        return "tuple[TeacherConfig]"
    named = value.get("type") if isinstance(value, Mapping) else getattr(value, "type", None)
    return "TeacherConfig" if named is None else str(named)


TeachersConfig = Annotated[
    Annotated[TeacherConfig, Tag("TeacherConfig")]
    | Annotated[
        tuple[TeacherConfig, ...], Field(min_length=1, max_length=16), Tag("tuple[TeacherConfig]")
    ]
    | Annotated[PredictionsTeacher, Tag("predictions")]
    | Annotated[OnnxTeacher, Tag("onnx")]
    | Annotated[BackboneTeacher, Tag("backbone")],
    Discriminator(_kind_of_teacher),
]


class BaselineConfig(Section):
    """Training of the same student without a teacher, the reference of the gain."""

    enabled: bool = True
    equal_time: bool = False  # also train for as many steps as cost the same as the student's


class TeachConfig(Section):
    """Pass the pictures through the teachers once, before the students train.

    The outputs that the losses compare are stored beside the runs, and training reads them from
    there. The distilled students then see the same few views of each picture again and again.

    Attributes:
        views: most views of each labelled picture; no more than epochs. Where mosaics end
            before the training does, as many again without.
        unlabeled_views: most views of each picture without labels; null: as many as `views`.
    """

    views: int = Field(default=8, ge=1, le=10_000)
    unlabeled_views: int | None = Field(default=None, ge=1, le=10_000)


class CalibrationConfig(Section):
    """Choice of the training pictures on which INT8 and FP8 ranges are measured."""

    # `images` is the older name of the key
    count: PositiveInt = Field(default=64, validation_alias=AliasChoices("count", "images"))
    method: Literal["minmax", "entropy", "percentile"] = "minmax"  # INT8 only; FP8 takes minmax
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, given: object) -> object:
        if isinstance(given, dict) and {"count", "images"} <= given.keys():
            raise ClashError(
                "images is the older name of count, and both are given; keep count",
                *("images", "count"),
            )
        return given


class QuantizationConfig(Section):
    """Limit of the AP lost to 8 bits; layers are restored to float until it holds."""

    # AP points on held-back training pictures; null: no limit
    max_drop: Annotated[float, Field(ge=0, le=100)] | None = 0.5
    check_images: PositiveInt = 128  # held back, at most half of the training split
    # parts of layer names; matching layers stay float
    keep_float: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...], Field(max_length=1000)
    ] = ()
    remainder: Literal["fp16", "fp32"] = "fp16"  # precision of int8-trt's float features


class ExportConfig(Section):
    """The exported files of the student; teacher and baselines are exported in fp32 only.

    `int8` is for CPUs. `int8-trt`, the symmetric form, and `fp8`, for SM 8.9 and later, are for
    TensorRT: a run measures their accuracy and leaves their latency to the device.
    """

    precisions: tuple[Literal["fp32", "fp16", "int8", "int8-trt", "fp8"], ...] = ("fp32", "int8")
    opset: int = Field(default=18, ge=18, le=21)
    dynamic_batch: bool = False
    input: Literal["float32", "uint8"] = "float32"  # uint8: letterboxed pictures, channels last
    # graph, matrix: as operators of the ONNX graph. Models whose heads give one box per object have
    # none, whatever is set; none is refused for a student that needs NMS
    nms: Literal["host", "graph", "matrix", "none"] = "host"
    nms_iou: float = Field(default=0.6, gt=0, le=1)
    max_detections: int = Field(default=100, ge=1, le=10_000)
    score_threshold: float = Field(default=0.25, ge=0, lt=1)  # for use on the device
    evaluation_score_threshold: float = Field(default=0.001, ge=0, lt=1)  # for AP
    calibration: CalibrationConfig = CalibrationConfig()
    quantization: QuantizationConfig = QuantizationConfig()
    parity_images: int = Field(default=32, ge=1, le=10_000)

    @model_validator(mode="after")
    def _fp32_is_the_reference(self) -> Self:
        if len(set(self.precisions)) < len(self.precisions):
            raise ClashError(
                f"precisions names each one once; found {list(self.precisions)}", "precisions"
            )
        asked = "evaluation_score_threshold" in self.model_fields_set
        if asked and self.evaluation_score_threshold > self.score_threshold:
            raise ClashError(
                f"evaluation_score_threshold {self.evaluation_score_threshold:g} is above "
                f"score_threshold {self.score_threshold:g}: AP would be of fewer boxes than the "
                "device shows; AP needs those of low scores, as by the default of 0.001",
                *("evaluation_score_threshold", "score_threshold"),
            )
        if "fp32" not in self.precisions:
            raise ClashError(
                "precisions needs fp32: the others are made from it and judged by it", "precisions"
            )
        return self


class Recipe(Section):
    """One experiment, from data to report.

    With `teacher` and `distill` a student is trained with and without distillation; without both,
    one detector is trained.
    """

    schema_version: Version = Field(alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seed: Seed = 0
    # trainings of student and baseline, with seed, seed + 1, ...
    seeds: int = Field(default=1, ge=1, le=1000)
    data: DataConfig
    # one, or several that teach one after the other; or what any detector found or finds; or the
    # features of a backbone
    teacher: TeachersConfig | None = None
    student: DetectorConfig  # the detector to train and ship
    distill: Annotated[tuple[LossConfig, ...], Field(max_length=32)] = ()
    teach: TeachConfig | None = None  # null: the teachers run in every step
    inherit: Literal["none", "neck+head"] = "none"  # from the teacher; baseline too
    baseline: BaselineConfig = BaselineConfig()  # of a recipe with a teacher
    train: TrainConfig  # of student and baseline
    export: ExportConfig = ExportConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    gates: GatesConfig | None = None  # limits against another run's report, checked at the end
    track: Annotated[tuple[TrackerName, ...], EACH_ONCE] = (
        "tensorboard",
    )  # loggers beside the run folder

    @property
    def teachers(self) -> tuple[TeacherConfig, ...]:
        """Return the detectors that teach, in their order; empty without one."""
        if self.teacher is None or isinstance(self.teacher, FileTeacher | BackboneTeacher):
            return ()
        return self.teacher if isinstance(self.teacher, tuple) else (self.teacher,)

    @property
    def file_teacher(self) -> FileTeacher | None:
        """The teacher that finds boxes beforehand and is no network of this package."""
        return self.teacher if isinstance(self.teacher, FileTeacher) else None

    @property
    def backbone_teacher(self) -> BackboneTeacher | None:
        """The teacher that is a network without a head: it finds nothing, and has features."""
        return self.teacher if isinstance(self.teacher, BackboneTeacher) else None

    @property
    def stores_outputs(self) -> bool:
        """Whether the teachers' outputs are stored before the students train."""
        return bool(self.teach and (self.teachers or self.backbone_teacher) and self.distill)

    @property
    def has_baseline(self) -> bool:
        """Whether the student is also trained without a teacher, as the reference of the gain."""
        return self.teacher is not None and self.baseline.enabled

    @property
    def has_equal_time(self) -> bool:
        """Whether a baseline is trained at the same cost as the distilled student."""
        return self.has_baseline and self.baseline.equal_time and bool(self.distill)

    def teacher_keys(self, index: int) -> tuple[str | int, ...]:
        """Return the path of one teacher's settings in the recipe."""
        return ("teacher", index) if isinstance(self.teacher, tuple) else ("teacher",)

    @field_validator("distill", "inherit", "baseline")
    @classmethod
    def _needs_a_teacher(cls, value: Given, info: ValidationInfo) -> Given:
        asked = value.enabled if isinstance(value, BaselineConfig) else bool(value)
        # a teacher with mistakes of its own is absent from `info.data`
        if asked and value != "none" and info.data.get("teacher", ...) is None:
            raise ClashError(
                "needs a teacher; add the section teacher, or remove this key to train one "
                "detector without distillation",
                *((), ("..", "teacher")),
            )
        return value

    @model_validator(mode="after")
    def _a_teacher_teaches(self) -> Self:
        if self.teacher is not None and "distill" not in self.model_fields_set:
            raise ClashError(
                "distill is missing: the recipe has a teacher. List its methods; set distill: [] "
                "to train with no distillation term; or remove teacher to train one detector",
                *("teacher", "distill"),
            )
        return self

    @model_validator(mode="after")
    def _only_a_network_is_copied_or_stored(self) -> Self:
        file, other = self.file_teacher, self.file_teacher or self.backbone_teacher
        if other is not None and self.inherit != "none":
            raise ClashError(
                f"{self.inherit} copies the weights of a teacher of this package, and the teacher "
                f"is of type {other.type}; remove inherit",
                *("inherit", "teacher"),
            )
        if file is not None and self.teach is not None:
            raise ClashError(
                "stores the outputs of a network, and the boxes of a teacher of type "
                f"{file.type} are stored without it; remove teach",
                *("teach", "teacher"),
            )
        return self

    @model_validator(mode="after")
    def _a_graph_takes_the_batch(self) -> Self:
        if self.benchmark.batch > 1 and not self.export.dynamic_batch:
            raise ClashError(
                f"{self.benchmark.batch}, and the exported graph takes one picture; set "
                "export.dynamic_batch: true, or benchmark.batch: 1",
                *(("benchmark", "batch"), ("export", "dynamic_batch")),
            )
        return self

    @model_validator(mode="after")
    def _gates_need_a_reference(self) -> Self:
        if self.gates is not None and self.gates.reference is None:
            raise ClashError("give reference, the report or run to compare with", "gates")
        if self.gates is not None and not self.gates.given:
            raise ClashError(f"give at least one limit of {', '.join(LIMITS)}", "gates")
        return self

    @field_validator("distill")
    @classmethod
    def _no_loss_twice(cls, losses: tuple[LossConfig, ...]) -> tuple[LossConfig, ...]:
        for place, loss in enumerate(losses):
            if loss in losses[:place]:
                raise ClashError(
                    f"entries {losses.index(loss)} and {place} are equal; keep one and set its "
                    "weight",
                    *((place,), (losses.index(loss),)),
                )
        return losses

    @model_validator(mode="after")
    def _every_seed_is_one(self) -> Self:
        if self.seed + self.seeds - 1 > MOST_SEED:
            raise ClashError(
                f"seed {self.seed} and the {self.seeds} seeds from it on pass {MOST_SEED}; choose "
                "a smaller seed",
                *("seed", "seeds"),
            )
        return self

    def resolved(self) -> Tree:
        """Return all settings that determine the models, defaults included, as plain data.

        Gates and trackers are left out: they change no model and may change between runs of one
        name.
        """
        unused = {"gates", "track"} | (set() if self.teacher else {"baseline"})
        found: Tree = self.model_dump(mode="json", by_alias=True, exclude=unused)
        return found

    @classmethod
    def resolved_anew(cls, before: Tree) -> Tree:
        """Complete settings that an earlier version resolved with the defaults of new ones.

        A run begun before an upgrade can thus continue after it. Settings that this version does
        not accept are returned unchanged, and so differ from every recipe.
        """
        try:
            return cls.model_validate_json(json.dumps(before)).resolved()
        except ValidationError:
            return before


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe, Source]:
    """Read a recipe's file; also return where its settings come from, for later messages.

    Raises:
        RecipeError: all mistakes at once, each as `file:line: key: what is wrong`.
    """
    return load_model(Recipe, path, overrides, fill_from_weights)


def read_recipe(
    settings: Mapping[str, object], overrides: Sequence[str] = ()
) -> tuple[Recipe, Source]:
    """Read a recipe that is given as nested dicts and lists; paths become text.

    Raises:
        RecipeError: all mistakes at once, each as `key: what is wrong`.
    """
    return read_model(Recipe, settings, overrides, fill_from_weights)
