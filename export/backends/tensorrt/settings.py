"""TensorRT's settings: how an engine is built and run. Importing this loads no library."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from export.artifact.machine import BatchProfile, Portable
from export.config import NonNegativeInt, PositiveInt, Section

TensorRTPrecision = Literal["fp32", "fp16", "int8", "fp8"]


class TensorRTConfig(Section):
    """Settings of the TensorRT backend, for TensorRT 10.3 and later, 11 included.

    The precision is that of the ONNX file; `precision` states which one is expected. Networks are
    strongly typed. `weakly_typed` is for TensorRT below 10.12 where its strong typing refuses a
    graph: the old builder flags then allow the precision, and TensorRT chooses per layer.
    """

    precision: TensorRTPrecision = "fp16"
    device: NonNegativeInt = 0  # which GPU
    workspace_mib: PositiveInt | None = None  # None: as much as the GPU has
    profile: BatchProfile = BatchProfile()  # of graphs with any batch
    timing_cache: Path | None = None  # read where it is there, written after the build
    optimization_level: Annotated[int, Field(ge=0, le=5)] = 3
    timing_iterations: PositiveInt | None = None  # per tactic; None: TensorRT's own choice
    tf32: bool = False  # FP32 layers in 10-bit mantissas; off, so that FP32 is FP32
    version_compatible: bool = False  # later TensorRT of the same major may run it
    portable: Portable = "none"  # same_sm, ampere_plus: other GPUs may run it, slower
    weakly_typed: bool = False
    builds: PositiveInt = 1  # engines to build, the fastest of which is kept
    cuda_graph: bool = True  # record a shape's work at its third call in a row, then replay it

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.profile.min <= self.profile.opt <= self.profile.max:
            raise ValueError(
                f"profile: min {self.profile.min}, opt {self.profile.opt}, max "
                f"{self.profile.max}; expected min <= opt <= max"
            )
        return self
