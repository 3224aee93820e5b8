"""Sums, broadcasts and agreement over the data-parallel workers.

Without a process group each is the identity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from pix2score.metrics.protocol import Accumulator

T = TypeVar("T")


def num_workers() -> int:
    """Workers in the process group, 1 without one."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This worker's number, from 0."""
    return dist.get_rank() if num_workers() > 1 else 0


def sum_over_workers(tensor: Tensor) -> Tensor:
    """``tensor``, in place, added over all workers."""
    if num_workers() > 1:
        dist.all_reduce(tensor)
    return tensor


def share_from_first(tensors: Iterable[Tensor]) -> None:
    """Every tensor, in place, as the first worker has it."""
    if num_workers() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def first_says(flag: bool, device: torch.device) -> bool:
    """What the first worker says, on all of them."""
    verdict = torch.tensor([float(flag)], device=device)
    share_from_first([verdict])
    return bool(verdict)


def while_all_have(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """The same items, until the first worker has none left: all of them ask equally often."""
    while True:
        item = next(items, None)
        num_without = sum_over_workers(torch.tensor([float(item is None)], device=device))
        if item is None or num_without:
            return
        yield item


def gather(mine: T) -> list[T]:
    """What every worker has, on every worker, in the order of their ranks."""
    if num_workers() == 1:
        return [mine]
    everyone: list[Any] = [None] * num_workers()
    dist.all_gather_object(everyone, mine)
    return everyone


def gather_metrics(mine: Sequence[Accumulator]) -> list[Accumulator]:
    """Metrics merged over all workers, on every worker."""
    merged, *others = gather(list(mine))
    for other in others:
        merged = [a.merge(b) for a, b in zip(merged, other, strict=True)]
    return merged
