"""Everything that can run an artifact; one file each."""

from typing import Annotated, TypeAlias

from pydantic import Field

from export.backends.onnxruntime.engine import OnnxRuntimeConfig
from export.backends.tensorrt.settings import TensorRTConfig

BackendConfig: TypeAlias = Annotated[
    OnnxRuntimeConfig | TensorRTConfig, Field(discriminator="type")
]

__all__ = ["BackendConfig", "OnnxRuntimeConfig", "TensorRTConfig"]
