"""One file per distillation method; the union below is all that a recipe can ask for."""

from typing import Annotated

from pydantic import Field

from compress.losses.defeat import DeFeatConfig
from compress.losses.drkd import DrkdConfig
from compress.losses.gdetkd import GDetKdConfig
from compress.losses.gid import GidConfig
from compress.losses.icd import IcdConfig

LossConfig = Annotated[
    DeFeatConfig | DrkdConfig | GDetKdConfig | GidConfig | IcdConfig,
    Field(discriminator="type"),
]
