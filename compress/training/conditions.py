"""What the exact weights of a training depend on beside its recipe: device, threads, versions."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import torch

from benchmarks.timing.environment import cpu_model

INEXACT = "its weights are no longer bit for bit those of an uninterrupted run"


@dataclass(frozen=True)
class Conditions:
    """Conditions of the steps from one on; equal conditions give equal weights on a CPU.

    Attributes:
        from_step: first step that was taken under them.
        device: cpu or cuda.
        threads: threads of torch on a CPU; 0 on a GPU.
        torch: version of torch.
        processor: name of the processor or GPU, or "".
    """

    from_step: int
    device: str
    threads: int
    torch: str
    processor: str

    def words(self, other: "Conditions") -> str:
        """Return in words what differs from `other`."""
        found = []
        if self.device != other.device:
            found.append(f"on {self.device}")
        if self.threads != other.threads and self.device == other.device:
            found.append(f"with {self.threads} thread{'' if self.threads == 1 else 's'}")
        if self.torch != other.torch:
            found.append(f"with torch {self.torch}")
        if self.processor != other.processor:
            found.append(f"on {self.processor or 'another processor'}")
        return ", ".join(found)


def conditions_of(device: torch.device, step: int = 0) -> Conditions:
    """Return the present conditions, for steps from `step` on."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return Conditions(step, "cuda", 0, str(torch.__version__), name)
    threads = torch.get_num_threads()
    return Conditions(step, "cpu", threads, str(torch.__version__), cpu_model() or "")


def continued(before: str, now: Conditions) -> tuple[list[Conditions], str]:
    """Add the present conditions to those of a checkpoint.

    Args:
        before: what `as_json` returned; "[]" for a checkpoint of an earlier version.
        now: the present conditions.

    Returns:
        All conditions, in the order of the steps, and a warning, which is "" if nothing changed.
    """
    known = [Conditions(**one) for one in json.loads(before)]
    if not known:
        return [now], ""
    last = known[-1]
    if _same(last, now):
        return known, ""
    if last.from_step == now.from_step:  # no step was taken under the last ones
        known = known[:-1]
    known = known if known and _same(known[-1], now) else [*known, now]
    return known, f"resumed {now.words(last)}, interrupted {last.words(now)}: {INEXACT}"


def changes(conditions: Sequence[Conditions]) -> list[str]:
    """Return for each change of conditions during a training what changed at which step."""
    return [
        f"resumed at step {now.from_step} {now.words(last)} (before: {last.words(now)}): {INEXACT}"
        for last, now in itertools.pairwise(conditions)
    ]


def as_json(conditions: Sequence[Conditions]) -> str:
    """Return conditions as JSON, the form that checkpoints hold."""
    return json.dumps([asdict(one) for one in conditions])


def _same(one: Conditions, other: Conditions) -> bool:
    return replace(one, from_step=other.from_step) == other
