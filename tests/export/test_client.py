"""A bundle's README is enough: a client written from it alone finds the same boxes."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.evaluate import predict as evaluate
from benchmarks.accuracy.metric import CocoResult
from benchmarks.data.image_set import coco_ground_truth, read_coco
from export.bundles.packing import write_bundle
from export.detections import Detections
from export.engine import open_engine
from export.graph.nms import put_nms_inside
from export.graph.uint8_input import take_uint8
from export.precision.int8 import quantize_int8
from export.predictions import predict
from tests.export.client import Client, Found, canvas, iou, picture
from tests.export.tiny import canvases


def pixels(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth noise: neighbours resemble each other as in photographs."""
    cells = np.random.default_rng(width).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def alpha(mode: str) -> Image.Image:
    image = Image.fromarray(pixels(90, 70)).convert(mode)
    image.putalpha(Image.fromarray(pixels(90, 70)[..., 0]))
    return image


PICTURES: dict[str, Callable[[Path], None]] = {
    "large.jpg": lambda path: Image.fromarray(pixels(1601, 1203)).save(path, quality=90),
    "thin.jpg": lambda path: Image.fromarray(pixels(900, 11)).save(path),
    "small.png": lambda path: Image.fromarray(pixels(19, 13)).save(path),
    "half.png": lambda path: Image.fromarray(pixels(64, 33)).save(path),  # 16.5 rows
    "turned.jpg": lambda path: Image.fromarray(pixels(300, 200)).save(path, exif=turned(6)),
    "mirrored.png": lambda path: Image.fromarray(pixels(60, 40)).save(path, exif=turned(4)),
    "grey.jpg": lambda path: Image.fromarray(pixels(200, 210)).convert("L").save(path),
    "cmyk.jpg": lambda path: Image.fromarray(pixels(200, 210)).convert("CMYK").save(path),
    "palette.png": lambda path: Image.fromarray(pixels(80, 50)).quantize(16).save(path),
    "clear.png": lambda path: (
        Image.fromarray(pixels(80, 50)).quantize(16).save(path, transparency=3)
    ),
    "alpha.png": lambda path: alpha("RGB").save(path),
    "grey_alpha.png": lambda path: alpha("L").save(path),
    "twelve_bits.png": lambda path: Image.fromarray(
        pixels(80, 50)[..., 0].astype(np.uint16) * 16
    ).save(path),
    "bits.png": lambda path: Image.fromarray(pixels(80, 50)).convert("1").save(path),
}


@pytest.fixture(scope="module")
def bundle(dynamic_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model as float and INT8, with NMS on the client and in the graph, and taking bytes."""
    folder = tmp_path_factory.mktemp("client")
    models = [dynamic_model, quantize_int8(dynamic_model, canvases(4), folder / "int8")]
    for name in ("nms", "bytes"):
        path = Path(shutil.copytree(dynamic_model.parent, folder / name)) / dynamic_model.name
        if name == "nms":
            put_nms_inside(path, "graph", canvases(2))
        else:
            take_uint8(path)
        models.append(path)
    return write_bundle(folder / "bundle", models, pixels(60, 40), name="tiny", threads=1)


def models(bundle: Path) -> dict[str, Path]:
    return {path.parent.name: path for path in sorted((bundle / "models").glob("*/model.onnx"))}


def require_same(theirs: Found, ours: Detections, name: str) -> None:
    assert [label for label, _, _ in theirs] == ours.labels.tolist(), name
    assert [score for _, score, _ in theirs] == pytest.approx(ours.scores, abs=1e-4), name
    for (_, _, box), own in zip(theirs, ours.boxes, strict=True):
        assert iou(np.array(box), own[None])[0] >= 0.99, name


@pytest.mark.slow
def test_the_client_finds_what_predict_finds_on_every_kind_of_picture(bundle, tmp_path):
    for name, save in PICTURES.items():
        save(tmp_path / name)
    seen = 0
    for path in models(bundle).values():
        client = Client(path)
        with open_engine(path, threads=1) as engine:
            for name in PICTURES:
                ours = predict(engine, tmp_path / name, 0.05)
                require_same(client.detect(picture(tmp_path / name), 0.05), ours, name)
                seen += len(ours.scores)
    assert len(models(bundle)) == 4
    assert seen > 4 * len(PICTURES)


@pytest.mark.slow
def test_the_golden_photograph_gives_the_golden_input_to_the_byte(bundle):
    golden = np.load(io.BytesIO((bundle / "golden/input.npy").read_bytes()))
    photograph = picture(bundle / "golden/photograph.png")
    for path in models(bundle).values():
        assert (canvas(photograph, Client(path).sidecar) == golden).all()


def test_the_readme_states_sizes_thresholds_and_where_nms_is(bundle):
    text = (bundle / "README.md").read_text()
    assert "preprocessing version 1" in text
    assert "scale = min(32 / w, 32 / h)" in text
    assert "| `nms` | onnxruntime | fp32 | float32 | graph |" in text
    assert "| `bytes` | onnxruntime | fp32 | uint8 | client |" in text
    assert "Keep scores above 0.25" in text
    assert "Note on" not in text


@pytest.mark.slow
def test_the_client_measures_the_ap_of_evaluation_on_large_jpegs(bundle, tmp_path):
    """Objects are moved detections of the first model, so that AP is far from 0 and from 1."""
    rng = np.random.default_rng(0)
    paths = models(bundle)
    with open_engine(next(iter(paths.values())), threads=1) as engine:
        images: list[dict[str, Any]] = []
        objects: list[dict[str, Any]] = []
        for number in range(1, 7):
            path = tmp_path / f"{number}.jpg"
            Image.fromarray(pixels(400 + 37 * number, 300)).save(path, quality=85)
            images.append(
                {"id": number, "file_name": path.name, "width": 400 + 37 * number, "height": 300}
            )
            found = predict(engine, path, 0.2)
            for box, label in zip(found.boxes[:6], found.labels, strict=False):
                x1, y1, x2, y2 = box + rng.normal(0, 8, 4)
                side = [float(max(x2 - x1, 5)), float(max(y2 - y1, 5))]
                objects.append(
                    {
                        "id": len(objects) + 1,
                        "image_id": number,
                        "category_id": (17, 18)[label],
                        "bbox": [float(x1), float(y1), *side],
                        "area": side[0] * side[1],
                        "iscrowd": 0,
                    }
                )
    categories = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    document = {"images": images, "annotations": objects, "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(document))
    truth = coco_ground_truth(read_coco(tmp_path / "val.json"))
    for path in paths.values():
        client = Client(path)
        results: list[CocoResult] = [
            {
                "image_id": image["id"],
                "category_id": client.sidecar["category_ids"][label],
                "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 7),
            }
            for image in truth["images"]
            for label, score, (x1, y1, x2, y2) in client.detect(
                picture(tmp_path / image["file_name"]), 0.001
            )
        ]
        with open_engine(path, threads=1) as engine:
            ours = coco_map(evaluate(engine, read_coco(tmp_path / "val.json")), truth).values["AP"]
        theirs = coco_map(results, truth, judge="pycocotools").values["AP"]
        assert ours is not None
        assert 0.05 < ours < 0.95
        assert theirs == pytest.approx(ours, abs=1e-3)
