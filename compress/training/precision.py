"""Choose a run's numeric precision by measuring the model at hand."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from export.atomic import write_json

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]


def resolve_precision(
    amp: str,
    device: torch.device,
    probe: Callable[[], nn.Module],
    record: Path,
    size: tuple[int, int],
) -> tuple[Precision, str]:
    """Return Fabric's name of the precision, and the reason in words.

    `auto` on a GPU: bf16 where it is native, else fp16. On a CPU both are timed on the backbone
    that `probe` builds, and bf16 must be at least 10 % faster. The answer is written to `record`,
    because a resumed run must keep the precision that it began with.
    """
    if amp == "off":
        return "32-true", "fp32, as the recipe says"
    if amp == "bf16":
        return "bf16-mixed", "bf16, as the recipe says"
    if amp == "fp16":
        return "16-mixed", "fp16 with a loss scaler, as the recipe says"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return "bf16-mixed", "bf16: native on this GPU"
        return "16-mixed", "fp16 with a loss scaler: this GPU has no native bf16"
    if record.exists():
        known = json.loads(record.read_text(encoding="utf-8"))
        return known["precision"], known["why"]
    slow, fast = _time(probe, size)
    chosen: Precision = "bf16-mixed" if fast < 0.9 * slow else "32-true"
    name = "bf16" if chosen == "bf16-mixed" else "fp32"
    why = f"{name}: bf16 takes {fast / slow:.2f} of fp32's time here"
    write_json({"precision": chosen, "why": why}, record)
    return chosen, why


def _time(probe: Callable[[], nn.Module], size: tuple[int, int]) -> tuple[float, float]:
    """Return the fastest of three forward and backward passes in fp32 and in bf16, seconds."""
    with torch.random.fork_rng(devices=[]):
        model = probe().train().to(memory_format=torch.channels_last)
        images = torch.rand(2, 3, *size).contiguous(memory_format=torch.channels_last)
    best = []
    for half in (False, True):
        times = []
        for _ in range(3):
            start = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = model(images)
            maps: list[Tensor] = list(found.values()) if isinstance(found, dict) else list(found)
            loss = torch.stack([m.float().mean() for m in maps]).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            times.append(time.perf_counter() - start)
        best.append(min(times))
    return best[0], best[1]
