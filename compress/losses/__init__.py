"""The distillation methods of a recipe, one file each; a new one is a member of `Plain`."""

from typing import Annotated

from pydantic import Field

from compress.losses.at import AtConfig
from compress.losses.bckd import BckdConfig
from compress.losses.crosskd import CrossKdConfig
from compress.losses.cwd import CwdConfig
from compress.losses.defeat import DeFeatConfig
from compress.losses.dicod import DicodConfig
from compress.losses.dist import DistConfig
from compress.losses.dkd import DkdConfig
from compress.losses.drkd import DrkdConfig
from compress.losses.fbkd import FbkdConfig
from compress.losses.fgd import FgdConfig
from compress.losses.fgfi import FgfiConfig
from compress.losses.gdetkd import GDetKdConfig
from compress.losses.gid import GidConfig
from compress.losses.icd import IcdConfig
from compress.losses.ikd import IkdConfig
from compress.losses.kddetr import KdDetrConfig
from compress.losses.kl import KlConfig
from compress.losses.ld import LdConfig
from compress.losses.mgd import MgdConfig
from compress.losses.mse import MseConfig
from compress.losses.pkd import PkdConfig
from compress.losses.pseudo_labels import PseudoLabelsConfig
from compress.losses.reviewkd import ReviewKdConfig
from compress.losses.rkd import RkdConfig
from compress.losses.tadf import TadfConfig

Plain = (
    AtConfig
    | BckdConfig
    | CrossKdConfig
    | CwdConfig
    | DeFeatConfig
    | DicodConfig
    | DistConfig
    | DkdConfig
    | DrkdConfig
    | FbkdConfig
    | FgdConfig
    | FgfiConfig
    | GDetKdConfig
    | GidConfig
    | IcdConfig
    | KdDetrConfig
    | KlConfig
    | LdConfig
    | MgdConfig
    | MseConfig
    | PkdConfig
    | PseudoLabelsConfig
    | ReviewKdConfig
    | RkdConfig
    | TadfConfig
)  # every method that stands alone

# IKD wraps one of them, so that its settings are whole only once all of them are known
PlainLossConfig = Annotated[Plain, Field(discriminator="type")]
IkdConfig.model_rebuild(_types_namespace={"PlainLossConfig": PlainLossConfig})

LossConfig = Annotated[Plain | IkdConfig, Field(discriminator="type")]
