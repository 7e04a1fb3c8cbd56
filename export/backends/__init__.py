"""Everything that can run an artifact; one file each."""

from typing import TypeAlias

from export.backends.onnxruntime_backend import OnnxRuntimeConfig

# A second backend makes this `Annotated[A | B, Field(discriminator="type")]`.
BackendConfig: TypeAlias = OnnxRuntimeConfig

__all__ = ["BackendConfig", "OnnxRuntimeConfig"]
