"""Choose a run's numeric precision by the device's features and, on a CPU, by timing."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from compress.training.seals import check_seal, write_sealed_json
from export.errors import ToolkitError

Precision = Literal["32-true", "bf16-mixed", "16-mixed"]
Choice = tuple[Precision, str]

CPUINFO = Path("/proc/cpuinfo")
# Linux's names of bf16 arithmetic, of x86 and of ARM; other processors only emulate it.
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})
# Native bf16 is kept unless it takes more than this share of fp32's processor time. The limit is
# far above the usual share, so that the choice does not depend on the load of the machine.
TOO_SLOW = 1.1
ROUNDS = 5
FEWEST_TIMED, TIMED_PIXELS = 2, 8 * 160 * 160  # pictures, and pixels of all that are timed


def resolve_precision(
    amp: str,
    device: torch.device,
    probe: Callable[[], nn.Module],
    record: Path,
    size: tuple[int, int],
    cpuinfo: Path = CPUINFO,
    *,
    batch: int = FEWEST_TIMED,
) -> Choice:
    """Return Fabric's name of the precision, and the reason in words.

    `auto` on a GPU: bf16 where it is native, else fp16. On a CPU: fp32 without bf16 arithmetic;
    with it bf16, unless the backbone that `probe` builds takes more than 1.1 times the processor
    time of fp32. The answer is written to `record`, because a resumed run must keep the precision
    that it began with.

    `batch` is the number of pictures in a step. As many are timed, but of large ones only two: few
    small pictures would time the weights, which are cast in every pass.
    """
    known = planned_precision(amp, device, record, cpuinfo)
    if known is not None:
        if amp == "auto" and device.type == "cpu" and not record.exists():
            write_sealed_json({"precision": known[0], "why": known[1]}, record)
        return known
    share = _bf16_share(probe, size, timed_pictures(batch, size))
    chosen: Precision = "32-true" if share > TOO_SLOW else "bf16-mixed"
    name = "fp32" if chosen == "32-true" else "bf16"
    why = f"{name}: bf16, native here, takes {share:.2f} of fp32's processor time"
    write_sealed_json({"precision": chosen, "why": why}, record)
    return chosen, why


def planned_precision(
    amp: str, device: torch.device, record: Path, cpuinfo: Path = CPUINFO
) -> Choice | None:
    """Return the result of `resolve_precision` if it is known without timing.

    None for native bf16 on a CPU, which is timed when the training begins.
    """
    if amp == "off":
        return "32-true", "fp32, set in the recipe"
    if amp == "bf16":
        return "bf16-mixed", "bf16, set in the recipe"
    if amp == "fp16":
        return "16-mixed", "fp16 with a loss scaler, set in the recipe"
    if device.type == "cuda":
        if torch.cuda.get_device_capability(device)[0] >= 8:
            return "bf16-mixed", "bf16: native on this GPU"
        return "16-mixed", "fp16 with a loss scaler: this GPU has no native bf16"
    if record.exists():
        return _recorded(record)
    return None if has_bf16(cpuinfo) else ("32-true", "fp32: this processor has no bf16 arithmetic")


def _recorded(record: Path) -> Choice:
    """Read the choice with which the run began.

    Raises:
        ToolkitError: the record is damaged.
    """
    check_seal(record, "choose again")
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        if found["precision"] not in get_args(Precision):
            raise ValueError(found["precision"])
        return found["precision"], str(found["why"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ToolkitError(
            f"{record}: is no record of a precision ({type(error).__name__}); restore it, or "
            "delete it to choose again"
        ) from error


def planned_in_words(amp: str, device: torch.device, record: Path) -> str:
    """Return the planned precision and its reason as text."""
    known = planned_precision(amp, device, record)
    if known is None:
        return (
            "bf16: native on this processor; fp32 if a timing before the training gives over "
            f"{TOO_SLOW:g} times fp32's processor time"
        )
    return known[1]


def has_bf16(cpuinfo: Path = CPUINFO) -> bool:
    """Whether the processor has bf16 arithmetic; False if it is unknown."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return False
    lines = (line.partition(":") for line in text.splitlines())
    return any(
        not BF16_FLAGS.isdisjoint(flags.split())
        for name, _, flags in lines
        if name.strip() in {"flags", "Features"}
    )


def timed_pictures(batch: int, size: tuple[int, int]) -> int:
    """Return how many pictures of (height, width) stand for a step of `batch`."""
    return max(FEWEST_TIMED, min(batch, TIMED_PIXELS // (size[0] * size[1])))


def _bf16_share(probe: Callable[[], nn.Module], size: tuple[int, int], pictures: int) -> float:
    """Return the processor time of a pass in bf16 over one in fp32: median of rounds in turns."""
    with torch.random.fork_rng(devices=[]):
        model = probe().train().to(memory_format=torch.channels_last)
        images = torch.rand(pictures, 3, *size).contiguous(memory_format=torch.channels_last)

    def cost(half: bool) -> float:
        start = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found = model(images)
        maps: list[Tensor] = list(found.values()) if isinstance(found, dict) else list(found)
        loss = torch.stack([m.float().mean() for m in maps]).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return time.process_time() - start

    rounds = [(cost(half=True), cost(half=False)) for _ in range(1 + ROUNDS)]
    return statistics.median(bf16 / fp32 for bf16, fp32 in rounds[1:])  # the first one warms up
