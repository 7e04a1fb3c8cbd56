"""Reports of one row on the disk, for `compare` and its limits."""

import json
from pathlib import Path
from typing import Any

from benchmarks.accuracy.coco_map import COCO_NAMES

FP32 = {"precision": "fp32"}
LIMITS = ["--max-ap-drop", "50", "--max-p99", "+900%", "--max-size", "+900%", "--allow-noisy"]


def write(
    folder: Path,
    ap: float = 0.5,
    p99: float = 10.0,
    verdict: str = "valid",
    precision: str = "int8",
) -> Path:
    scope = {"p50": p99 / 2, "p90": p99, "p99": p99, "min": 1.0, "n": 500, "ci95_p50": [4, 6]}
    row: dict[str, Any] = {
        "model": "student",
        "backend": "onnxruntime",
        "precision": precision,
        "artifact": "model.onnx",
        "sha256": f"{ap}",
        "size_mb": 4.0,
        "parameters": 1000,
        "ap": dict.fromkeys(COCO_NAMES, ap),
        "latency_ms": {"engine": scope, "end_to_end": scope, "batch": 1},
        "predictions": "p.json",
        "verdict": verdict,
    }
    content = {
        "schema": 1,
        "name": "x, 5 pictures",
        "environment": {"cpu": {"model": "a"}},
        "rows": [row],
    }
    (folder / "report").mkdir(parents=True)
    (folder / "report" / "report.json").write_text(json.dumps(content))
    return folder


def change(folder: Path, *rows: dict[str, Any] | None) -> Path:
    """Replace the report's row by copies of it, each with some keys changed."""
    file = folder / "report" / "report.json"
    content = json.loads(file.read_text())
    (row,) = content["rows"]
    content["rows"] = [{**row, **changes} for changes in rows if changes is not None]
    file.write_text(json.dumps(content))
    return folder


VAL: dict[str, Any] = {"images": 87, "boxes": 1137, "boxes_per_class": {"RBC": 967, "WBC": 170}}


def stating(folder: Path, **changes: Any) -> Path:
    """Change top-level keys of the report in `folder`."""
    file = folder / "report" / "report.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return folder


def on(val: object, source: str = "COCO JSON val.json", split: str = "val") -> dict[str, Any]:
    val = {"source": source, **val} if isinstance(val, dict) else val
    return {"data": {"splits": {split: val}}}
