"""Everything that can run an artifact; one file each."""

from typing import Annotated, TypeAlias

from pydantic import Field

from export.backends.onnxruntime_backend import OnnxRuntimeConfig
from export.backends.tensorrt_backend import TensorRTConfig

BackendConfig: TypeAlias = Annotated[
    OnnxRuntimeConfig | TensorRTConfig, Field(discriminator="type")
]

__all__ = ["BackendConfig", "OnnxRuntimeConfig", "TensorRTConfig"]
