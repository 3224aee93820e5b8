"""Convolutions over small maps as one matrix product, for training on a CPU.

The last layers of a network that sees small pictures have maps of a few pixels. There oneDNN's backward pass
of a 3x3 kernel costs several times its arithmetic. Forward and backward pass of resnet18, batch 64, channels
last, medians of six pairs in turns on idle cores, with one and two threads: 1.63 and 1.73 times as fast at 32
px, 1.27 and 1.25 at 64 px, 1.04 and 1.12 at 96 px.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_PIXELS = 16
"""Of the map that comes out."""


class SmallMapConv2d(nn.Conv2d):
    """The same convolution; while gradients are wanted on a CPU, small maps are multiplied out."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's own name
        """[N, C, H, W] -> [N, O, H', W']."""
        rows, columns = (self._side(input.shape[2 + axis], axis) for axis in (0, 1))
        is_small = 0 < rows * columns <= MOST_PIXELS and input.device.type == "cpu"
        if not (is_small and torch.is_grad_enabled()):
            return super().forward(input)
        number = len(input)
        padding = (self._padding(0), self._padding(1))
        patches_NCL = F.unfold(input, self.kernel_size, padding=padding, stride=self.stride)  # type: ignore[arg-type]
        kernels_OC = self.weight.reshape(self.out_channels, -1)
        found_ON = kernels_OC @ patches_NCL.transpose(0, 1).reshape(kernels_OC.shape[1], -1)
        if self.bias is not None:
            found_ON = found_ON + self.bias[:, None]
        return found_ON.view(self.out_channels, number, rows, columns).transpose(0, 1)

    def _side(self, size: int, axis: int) -> int:
        return (size + 2 * self._padding(axis) - self.kernel_size[axis]) // self.stride[axis] + 1

    def _padding(self, axis: int) -> int:
        padding = self.padding[axis]
        assert isinstance(padding, int), "others are not replaced"
        return padding


def multiply_small_maps(network: nn.Module) -> None:
    """Let the convolutions of ``network`` multiply small maps out. Its weights and their names stay."""
    for module in network.modules():
        if type(module) is nn.Conv2d and _is_plain(module):
            module.__class__ = SmallMapConv2d


def _is_plain(conv: nn.Conv2d) -> bool:
    return (
        conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.kernel_size != (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )
