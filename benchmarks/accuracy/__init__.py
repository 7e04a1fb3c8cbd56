"""What is measured besides time: one file and one entry here per metric."""

from collections.abc import Callable
from typing import Any

from benchmarks.accuracy.coco_map import coco_map
from benchmarks.accuracy.size import size_mb

METRICS: dict[str, Callable[..., Any]] = {
    "coco_map": coco_map,
    "size_mb": size_mb,
}
