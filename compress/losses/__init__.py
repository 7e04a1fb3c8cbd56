"""One file per distillation method; the union below is all that a recipe can ask for."""

from typing import Annotated

from pydantic import Field

from compress.losses.bckd import BckdConfig
from compress.losses.crosskd import CrossKdConfig
from compress.losses.defeat import DeFeatConfig
from compress.losses.dist import DistConfig
from compress.losses.dkd import DkdConfig
from compress.losses.gid import GidConfig
from compress.losses.kl import KlConfig
from compress.losses.ld import LdConfig

LossConfig = Annotated[
    DeFeatConfig
    | GidConfig
    | KlConfig
    | DkdConfig
    | DistConfig
    | LdConfig
    | BckdConfig
    | CrossKdConfig,
    Field(discriminator="type"),
]
