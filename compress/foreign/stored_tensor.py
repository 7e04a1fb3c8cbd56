"""A tensor as a pickle describes it: where its values lie, read when asked."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from compress.foreign.pickle_machine import Made, NotReadableError, Storage
from compress.foreign.torch_file import ELEMENT_BYTES, TorchFile

DEEPEST = 100  # wrappers around a tensor
DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class StoredTensor:
    """A dense tensor in a file.

    Attributes:
        storage: the block that holds its values.
        offset: the first of them, in elements.
        size: its shape.
        stride: elements from one value to the next, one per dimension.
    """

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def reach(self) -> int:
        """How many elements of its storage it spans, from its first to its last."""
        if 0 in self.size:
            return 0
        return 1 + sum((side - 1) * step for side, step in zip(self.size, self.stride, strict=True))

    @property
    def bytes(self) -> int:
        """How many bytes of the file it spans."""
        return self.reach * ELEMENT_BYTES[self.storage.kind]

    @property
    def dtype(self) -> torch.dtype:
        """The type that it is read as: FP16 and BF16 as FP32."""
        stored = DTYPES[self.storage.kind]
        return torch.float32 if stored in HALVES else stored

    def shape_only(self) -> Tensor:
        """Return it without values, on the device `meta`."""
        return torch.empty(self.size, dtype=self.dtype, device="meta")

    def read(self, file: TorchFile) -> Tensor:
        """Return it with its values.

        Raises:
            NotReadableError: the file does not hold them.
        """
        if not self.reach:
            return torch.empty(self.size, dtype=self.dtype)
        block = file.read(self.storage, self.offset, self.reach)
        values = torch.frombuffer(block, dtype=DTYPES[self.storage.kind])
        return values.as_strided(self.size, self.stride).to(self.dtype, copy=True)


def stored_tensor(name: str, value: object) -> StoredTensor:
    """Return the tensor that a pickle describes under `name`.

    Raises:
        NotReadableError: it is no dense tensor, or reaches beyond its storage.
    """
    for _ in range(DEEPEST):  # a parameter around a tensor, a subclass around that
        if not isinstance(value, Made):
            break
        if value.name.startswith("torch._utils._rebuild_parameter") and value.args:
            value = value.args[0]
        elif value.name == "torch._tensor._rebuild_from_type_v2" and len(value.args) > 2:
            arguments = value.args[2]
            value = Made(value.args[0], arguments if isinstance(arguments, tuple) else ())
        elif value.name in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return _checked(name, value.args)
        else:
            break
    raise NotReadableError(f"{name} is stored as {kind_of(value)}, not as a plain tensor")


def _checked(name: str, arguments: tuple[object, ...]) -> StoredTensor:
    storage, offset, given_size, given_stride = (*arguments[:4], None, None, None, None)[:4]
    if not isinstance(storage, Storage) or storage.kind not in ELEMENT_BYTES:
        raise NotReadableError(f"{name} holds numbers of an unknown kind")
    size, stride = _counts(given_size), _counts(given_stride)
    if not isinstance(offset, int) or size is None or stride is None or len(size) != len(stride):
        raise NotReadableError(f"{name} has no valid shape")
    found = StoredTensor(storage, offset, size, stride)
    if offset < 0 or offset + found.reach > storage.count:
        raise NotReadableError(f"{name} reaches beyond the numbers that the file states for it")
    if math.prod(size) > storage.count:  # one value repeated, in any number
        raise NotReadableError(f"{name} has more values than the file states for it")
    return found


def _counts(value: object) -> tuple[int, ...] | None:
    """Return a pickled shape; None where it is none."""
    if isinstance(value, Made) and value.name == "torch.Size":
        value = value.args[0] if value.args else ()
    if not isinstance(value, tuple | list) or len(value) > 8:
        return None
    whole = [side for side in value if isinstance(side, int) and 0 <= side < 2**40]
    return tuple(whole) if len(whole) == len(value) else None


def kind_of(value: object) -> str:
    """Return what a value was to be made by, or its type."""
    return (value.name if isinstance(value, Made) else "") or type(value).__name__
