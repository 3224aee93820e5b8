"""Adversarial training: a step also learns from its pictures moved where the loss grows fastest (FGM).

https://arxiv.org/abs/1605.07725, on pixels. Shapes: B images, S side.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


def moved_against(image_BCHW: Tensor, length: float) -> Tensor:
    """Network inputs moved by an L2 norm of ``length`` each, along the gradient that a backward pass left.

    A picture without a gradient (no head has a label) stays.
    """
    assert image_BCHW.grad is not None, "a backward pass went through it"
    gradient = image_BCHW.grad
    norm_B111: Tensor = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True)
    step = length * gradient / norm_B111.clamp(min=torch.finfo(norm_B111.dtype).tiny)
    return (image_BCHW + step).detach()


@contextlib.contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """BatchNorm's running statistics stay: moved pictures are not those that the model will see.

    Mixed, they cost accuracy: https://arxiv.org/abs/1911.09665
    """
    seen = [buffer.clone() for buffer in model.buffers()]
    yield
    for buffer, value in zip(model.buffers(), seen, strict=True):
        buffer.copy_(value)
