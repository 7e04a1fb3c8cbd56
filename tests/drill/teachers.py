"""Recipes whose teachers run once: stored outputs, results, an ONNX file, a backbone."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torchvision import models

from tests.compress.smoke import SMOKE, opened_smoke
from tests.drill.bundles import make_model

_PSEUDO = """\
distill:
  - {type: pseudo_labels, learn: 0.4, ignore: 0.1, agree: 0.5, beta: 2.0}
"""
_FEATURES = """\
distill:
  - {type: pkd, loss_weight: 2}
"""
_STORED = """\
distill:
  - {type: pkd}
  - {type: bckd, box_weight: 2}
teach: {views: 2, unlabeled_views: 1}
"""


def taught_recipes(folder: Path) -> dict[str, str]:
    """Write what the teachers are read from into `folder`; return the recipes by name."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "stored": _recipe(SMOKE[SMOKE.index("teacher:") : SMOKE.index("student:")], _STORED),
        "predictions": _recipe(_predictions(folder), _PSEUDO),
        "onnx": _recipe(_onnx(folder), _PSEUDO),
        "backbone": _recipe(_backbone(folder), _FEATURES),
    }


def _recipe(teacher: str, distill: str) -> str:
    """Return the smoke recipe with another teacher and other losses."""
    text = SMOKE.replace("*tiny", SMOKE[SMOKE.index("&tiny") + 5 : SMOKE.index("  train: {epochs")])
    data = "  unlabeled: {split: train, count: 12, rest: true}\n"
    head, rest = text[: text.index("teacher:")], text[text.index("student:") :]
    student, end = rest[: rest.index("distill:")], rest[rest.index("train: {steps") :]
    return f"{head}{data}{teacher.replace('&tiny', '')}{student}{distill}{end}"


def _predictions(folder: Path) -> str:
    data, rows = opened_smoke(folder).data, []
    for image in (*data.train.images, *data.val.images):
        for (left, top, right, bottom), label in zip(image.boxes, image.labels, strict=True):
            box = [float(value) for value in (left, top, right - left, bottom - top)]
            row = {"image_id": image.file_name, "category_id": int(label) + 1, "bbox": box}
            rows.append({**row, "score": 0.9})
    path = folder / "results.json"
    path.write_text(json.dumps(rows))
    ids = {name: number for number, name in enumerate(data.classes, start=1)}
    return f"""\
teacher:
  type: predictions
  file: {json.dumps(str(path))}
  categories: {json.dumps(ids)}
  class_map: {{{data.classes[0]}: [{data.classes[0]}]}}
  score_threshold: 0.05
  max_boxes: 50
"""


def _onnx(folder: Path) -> str:
    model = make_model(folder / "model")
    names = json.loads(model.with_suffix(".json").read_text())["classes"]
    first = opened_smoke(folder).data.classes[0]
    return f"""\
teacher:
  type: onnx
  model: {json.dumps(str(model))}
  format: slimdet
  class_map: {{{first}: {json.dumps(names)}}}
  score_threshold: 0.05
  max_boxes: 50
"""


def _backbone(folder: Path) -> str:
    path = folder / "weights.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_file(models.mobilenet_v3_small().state_dict(), path)
    return f"""\
teacher:
  type: backbone
  backbone: mobilenet_v3_small
  backbone_weights: {json.dumps(str(path))}
"""
