"""Convolutions of a frozen network that keep their weights in the order oneDNN multiplies them in.

torch's convolutions on a CPU take weights in the order of their indices, and reorder them, and
under autocast cast them, at every pass. A frozen teacher's weights are constants: where pictures
are small and weights many, that is a good part of its pass. The operators are those that
`torch.compile` calls for frozen networks on a CPU; they have no gradient.
"""

import torch
from torch import Tensor, nn

MOST_SHAPES = 4  # inputs of different shapes that a layer keeps packed weights for
Key = tuple[torch.dtype, torch.Size]


def can_pack() -> bool:
    """Whether this torch has the operators."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    )


def is_packable(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that `PackedConv` can stand for."""
    return (
        type(layer) is nn.Conv2d
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class PackedConv(nn.Conv2d):
    """A convolution with the weights of another, which its passes without gradient keep packed.

    Everywhere else, as on a GPU, in other arithmetic than fp32 and bf16, with gradient, or for an
    input of many shapes, it is the other. The result for an input of a shape does not depend on the
    inputs before. The parameters are the other's own; the packed weights are copies, made at the
    first pass of a shape, and not in `state_dict`.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(layer.__dict__)
        self.packed: dict[Key, tuple[Tensor, Tensor | None]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Leave the packed weights out of copies."""
        return {**self.__dict__, "packed": {}}

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the base class's name
        """Return the convolution of (B, C, H, W), with channels last in memory."""
        half = torch.is_autocast_enabled("cpu")
        dtype = torch.get_autocast_dtype("cpu") if half else input.dtype
        if torch.is_grad_enabled() or input.device.type != "cpu" or not _has_arithmetic(dtype):
            return super().forward(input)
        key = (dtype, input.shape)
        if key not in self.packed:
            if len(self.packed) >= MOST_SHAPES:
                return super().forward(input)
            self.packed[key] = self._pack(dtype, list(input.shape))
        weight, bias = self.packed[key]
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input.to(dtype, memory_format=torch.channels_last),
            weight,
            bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            "none",
            [],
            "",
        )
        return found

    def _pack(self, dtype: torch.dtype, shape: list[int]) -> tuple[Tensor, Tensor | None]:
        weight = self.weight.detach().to(dtype).contiguous().to_mkldnn()
        packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, shape
        )
        return packed, None if self.bias is None else self.bias.detach().to(dtype)


def _has_arithmetic(dtype: torch.dtype) -> bool:
    """Whether the operators compute in an arithmetic on this processor."""
    if dtype is torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype is torch.float32
