"""The forms in which exported detectors state boxes, one small file each.

A format is a function of a `Graph` that returns how to read it, a `Fit`, or why it does not. To
add one, write its file and its line here.
"""

from compress.teaching.formats import (
    detr,
    dfine,
    mmdeploy,
    nanodet,
    slimdet,
    ultralytics,
    yolov5,
    yolox,
)
from compress.teaching.formats.graph import Format

FORMATS: dict[str, Format] = {
    "slimdet": slimdet.read,
    "ultralytics": ultralytics.read,
    "detr": detr.read,
    "detr-sigmoid": detr.read_without_no_object,
    "dfine": dfine.read,
    "nanodet": nanodet.read,
    "yolox": yolox.read,
    "yolov5": yolov5.read,
    "mmdeploy": mmdeploy.read,
}
