"""PCGrad: where gradients of two heads oppose each other in the trunk, that part is projected out.

https://arxiv.org/abs/2001.06782. An option because the reference system tried it; a plain sum is the default.
Shapes: H heads, P parameters of the trunk in one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def conflict_free(gradient_HP: Tensor, order_seed: int) -> Tensor:
    """float32 [P]: the sum over heads, each without its conflicts with the others.

    The others are met in a random order, which ``order_seed`` decides.

    The gradients must be those of the joint batch of all workers: projections of parts do not add up to the
    projection of the sum.
    """
    num_heads = len(gradient_HP)
    generator = torch.Generator().manual_seed(order_seed)
    dots_HH = gradient_HP @ gradient_HP.T
    # Every row stays a mix of the original gradients, so that only the [H, H] mixing weights are worked on.
    mix_HH = torch.eye(num_heads, device=gradient_HP.device)
    for i in range(num_heads):
        for j in torch.randperm(num_heads, generator=generator).tolist():
            dot = mix_HH[i] @ dots_HH[j]
            if i != j and dot < 0:
                mix_HH[i, j] -= dot / dots_HH[j, j]
    return mix_HH.sum(0) @ gradient_HP


def flat(tensors: Iterable[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    """One row of all ``tensors``; zeros where one is None."""
    return torch.cat(
        [
            (torch.zeros_like(p) if t is None else t).reshape(-1).float()
            for t, p in zip(tensors, like, strict=True)
        ]
    )


def unflatten_into_gradients(row: Tensor, parameters: Sequence[torch.nn.Parameter]) -> None:
    """Make ``row`` the parameters' gradients, in memory as they are: fused optimisers take no other."""
    for parameter, part in zip(parameters, torch.split(row, [p.numel() for p in parameters]), strict=True):
        parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))
