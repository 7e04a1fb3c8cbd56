"""Random draws that belong to a picture, whichever process has it and wherever in its batch."""

import hashlib
from collections.abc import Sequence

import torch


def step_seed(seed: int, step: int) -> int:
    """Return the seed of all draws of one step, the same in all processes."""
    return _number(f"{seed}/{step}/0")  # the 0 was a rank once: runs made before go on alike


def seed_torch(seed: int) -> None:
    """Seed torch's generators as `torch.manual_seed` does, without its cost for devices not in use.

    That one formats a stack trace for a CUDA that is not initialised, 2 ms in every step.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)


def picture_generators(
    image_ids: Sequence[int], purpose: str, device: torch.device | None = None
) -> list[torch.Generator]:
    """Return a generator per picture, seeded by the step's seed, the purpose and the picture alone.

    The step's seed is the one last given to `seed_torch`: the training loop gives the same
    one to all processes in every step.

    Args:
        image_ids: dataset ids.
        purpose: tells the draws of several users apart.
        device: device of the numbers; default the CPU.
    """
    device = device or torch.device("cpu")
    base = f"{torch.initial_seed()}/{purpose}"
    return [torch.Generator(device).manual_seed(_number(f"{base}/{one}")) for one in image_ids]


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
