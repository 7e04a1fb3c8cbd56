"""A client of a bundle as a stranger would write it from its README: NumPy, Pillow, ONNX Runtime.

Nothing of this project is imported here.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"]
Found = list[tuple[int, float, list[float]]]  # label, score, xyxy in the upright photograph


def picture(path: Path) -> NDArray[np.uint8]:
    with Image.open(path, formats=FORMATS) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits a value
            values = np.asarray(upright)
            bits = next(n for n in (8, 10, 12, 14, 16) if values.max() < 2**n)
            upright = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
        if "transparency" in upright.info or upright.mode in {"RGBA", "LA", "PA", "La", "RGBa"}:
            black = Image.new("RGBA", upright.size, (0, 0, 0, 255))
            upright = Image.alpha_composite(black, upright.convert("RGBA"))
        return np.asarray(upright.convert("RGB"))


def canvas(pixels: NDArray[np.uint8], sidecar: dict[str, Any]) -> NDArray[np.uint8]:
    height, width = sidecar["input"]["height"], sidecar["input"]["width"]
    new_w, new_h = new_size(pixels, sidecar)
    image = Image.fromarray(pixels)
    if image.size != (new_w, new_h):
        image = image.resize((new_w, new_h), Image.Resampling.BILINEAR)
    laid = np.full((height, width, 3), sidecar["input"]["fill"], dtype=np.uint8)
    laid[:new_h, :new_w] = np.asarray(image)
    return laid


def new_size(pixels: NDArray[np.uint8], sidecar: dict[str, Any]) -> tuple[int, int]:
    (h, w), spec = pixels.shape[:2], sidecar["input"]
    scale = min(spec["width"] / w, spec["height"] / h)
    new_w = min(spec["width"], max(1, round(w * scale)))
    return new_w, min(spec["height"], max(1, round(h * scale)))


class Client:
    def __init__(self, model: Path) -> None:
        self.sidecar = json.loads(model.with_suffix(".json").read_text())
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])

    def detect(self, pixels: NDArray[np.uint8], threshold: float) -> Found:
        spec, nms = self.sidecar["input"], self.sidecar["nms"]
        batch: NDArray[Any] = canvas(pixels, self.sidecar)[None]
        if spec["format"] == "float32":
            batch = np.ascontiguousarray(batch.transpose(0, 3, 1, 2), np.float32) / np.float32(255)
        outputs = self.session.run(["boxes", "scores", "labels"], {spec["name"]: batch})
        boxes, scores, labels = (output[0] for output in outputs)
        order = [i for i in np.argsort(-scores, kind="stable") if scores[i] > threshold]
        kept: list[int] = []
        for i in order:
            rivals = [j for j in kept if labels[j] == labels[i]] if nms["mode"] == "host" else []
            if not rivals or (iou(boxes[i], boxes[rivals]) <= nms["iou"]).all():
                kept.append(i)
            if len(kept) == nms["max_detections"]:
                break
        h, w = pixels.shape[:2]
        new_w, new_h = new_size(pixels, self.sidecar)
        corners = boxes[kept] / np.array([new_w / w, new_h / h] * 2)
        corners = corners.clip(0, [w, h, w, h])
        rows = zip(labels[kept].tolist(), scores[kept].tolist(), corners.tolist(), strict=True)
        return [row for row in rows if row[2][2] > row[2][0] and row[2][3] > row[2][1]]


def iou(box: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1)
    result: NDArray[np.float32] = shared / np.maximum(areas - shared, 1e-9)
    return result
