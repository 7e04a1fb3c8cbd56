"""One file per distillation method; the union below is all that a recipe can ask for."""

from typing import Annotated

from pydantic import Field

from compress.losses.defeat import DeFeatConfig
from compress.losses.fgd import FgdConfig
from compress.losses.fgfi import FgfiConfig
from compress.losses.gid import GidConfig
from compress.losses.tadf import TadfConfig

LossConfig = Annotated[
    DeFeatConfig | FgdConfig | FgfiConfig | GidConfig | TadfConfig, Field(discriminator="type")
]
