"""Train with Ultralytics' own trainer, in a process of its own; called by `ultralytics_kd`.

`python -m benchmarks.studies.ultralytics_train settings.json`: the file holds the starting weights
(`model`) and the arguments of `YOLO.train`. Prints the processor seconds of a step.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch


def main(file: Path) -> int:
    """Train once and print `{"cpu_seconds": median, "steps": n}` as the last line."""
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        switches = {"YOLO_CONFIG_DIR": folder, "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false"}
        os.environ.update(switches)
        from ultralytics import YOLO

        spent: list[float] = []
        began: dict[str, float] = {}
        model = YOLO(settings.pop("model"))
        model.add_callback(
            "on_train_batch_start", lambda _trainer: began.update(at=time.process_time())
        )
        model.add_callback(
            "on_train_batch_end", lambda _trainer: spent.append(time.process_time() - began["at"])
        )
        model.train(**settings)
    middle = sorted(spent)[len(spent) // 2]
    sys.stdout.write(json.dumps({"cpu_seconds": middle, "steps": len(spent)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
