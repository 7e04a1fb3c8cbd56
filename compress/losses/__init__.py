"""One file per distillation method; the union below is all that a recipe can ask for."""

from typing import Annotated

from pydantic import Field

from compress.losses.defeat import DeFeatConfig
from compress.losses.dicod import DicodConfig
from compress.losses.gid import GidConfig
from compress.losses.ikd import IkdConfig

Plain = DeFeatConfig | GidConfig | DicodConfig  # every method that stands alone

# IKD wraps one of them, so that its settings are whole only once all of them are known
PlainLossConfig = Annotated[Plain, Field(discriminator="type")]
IkdConfig.model_rebuild(_types_namespace={"PlainLossConfig": PlainLossConfig})

LossConfig = Annotated[Plain | IkdConfig, Field(discriminator="type")]
