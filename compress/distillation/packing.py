"""Convolutions of a frozen network that keep bf16 weights in the order oneDNN multiplies them in.

Under autocast on a CPU, torch casts the weights of a convolution to bf16 and reorders them at every
pass. A frozen teacher's weights are constants: of YOLO11s at 128 pixels, batch 8, that is a quarter
of the pass on a processor with AMX. In fp32 nothing is cast, and packed weights gain nothing with
AVX-512 and lose 5 % with AVX2. The operators are those that `torch.compile` calls for frozen
networks on a CPU; they have no gradient.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

MOST_SHAPES = 4  # inputs of different shapes that a layer keeps packed weights for


def can_pack() -> bool:
    """Whether this torch has the operators, and this processor the instructions."""
    return (
        torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def is_packable(layer: nn.Module) -> bool:
    """Whether a layer is a convolution that `PackedConv` can stand for."""
    return (
        type(layer) is nn.Conv2d
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


class PackedConv(nn.Conv2d):
    """A convolution with the weights of another, whose passes under bf16 autocast keep them packed.

    Everywhere else, as on a GPU, in other arithmetic, with gradient, or for inputs of many shapes,
    it is the other. The result for an input of a shape does not depend on the inputs before. The
    parameters are the other's own; the packed weights are copies, made at the first pass of a
    shape, and not in `state_dict`.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(layer.__dict__)
        self.packed: dict[torch.Size, tuple[Tensor, Tensor | None]] = {}

    def __getstate__(self) -> dict[str, object]:
        """Leave the packed weights out of copies."""
        return {**self.__dict__, "packed": {}}

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of (B, C, H, W)."""
        if torch.is_grad_enabled() or input.device.type != "cpu" or not _in_bf16(input):
            return super().forward(input)
        if input.shape not in self.packed:
            if len(self.packed) >= MOST_SHAPES:
                return super().forward(input)
            self.packed[input.shape] = self._pack(list(input.shape))
        weight, bias = self.packed[input.shape]
        found: Tensor = torch.ops.mkldnn._convolution_pointwise(
            input.to(torch.bfloat16, memory_format=torch.channels_last),
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

    def _pack(self, shape: list[int]) -> tuple[Tensor, Tensor | None]:
        weight = self.weight.detach().bfloat16().contiguous().to_mkldnn()
        reorder: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight
        packed = reorder(weight, self.padding, self.stride, self.dilation, self.groups, shape)
        return packed, None if self.bias is None else self.bias.detach().bfloat16()


def _in_bf16(given: Tensor) -> bool:
    """Whether autocast takes this input in bf16."""
    return (
        torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") is torch.bfloat16
        and given.dtype is not torch.float64  # which autocast leaves as it is
    )
