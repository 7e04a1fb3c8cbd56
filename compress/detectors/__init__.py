"""The detector families of a recipe; a new one is a file and a member of `Family`."""

from typing import Annotated

from pydantic import Field

from compress.detectors.faster_rcnn import FasterRcnnConfig
from compress.detectors.fcos import FcosConfig
from compress.detectors.gfl import GflConfig
from compress.detectors.retinanet import RetinaNetConfig
from compress.detectors.rtdetr import RtdetrConfig
from compress.detectors.ssd import SsdConfig
from compress.detectors.yolo import YoloConfig

Family = (
    FasterRcnnConfig
    | RetinaNetConfig
    | FcosConfig
    | GflConfig
    | SsdConfig
    | YoloConfig
    | RtdetrConfig
)  # fmt: skip

DetectorConfig = Annotated[Family, Field(discriminator="type")]
