"""Where a function runs: in a Ray task with declared memory, or small work in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from types import NoneType
from typing import Any, ParamSpec, TypeVar

import ray

from pix2score.cluster.local import is_local
from pix2score.cluster.ray_patches.cancelling import cancel
from pix2score.host.executor import LocalThreads

P = ParamSpec("P")
R = TypeVar("R")

TASK_MEMORY_BYTES = 3 * 2**30
PART_MEMORY_BYTES = 2**30


def on_cluster(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Run ``function(*args)`` as one Ray task with declared memory; its exception comes out as raised."""
    remote = ray.remote(num_cpus=1, memory=_task_memory(), max_retries=3)(function)
    try:
        return ray.get(remote.remote(*args, **kwargs))  # type: ignore[no-any-return]
    except ray.exceptions.RayTaskError as exc:
        raise exc.cause from exc


def each_on_cluster(
    function: Callable[..., R], calls: Sequence[tuple[Any, ...]], memory_bytes: int | None = None
) -> Iterator[R]:
    """``function(*call)`` of every call, as Ray tasks side by side; results in order, as they are ready.

    What all calls have in common is sent once. ``memory_bytes``: of each task (default: 1 GiB).
    """
    memory = min(memory_bytes or PART_MEMORY_BYTES, _task_memory())
    remote = ray.remote(num_cpus=1, memory=memory, max_retries=3)(function)
    pending = [remote.remote(*call) for call in _shared(calls)]
    try:
        while pending:
            yield ray.get(pending.pop(0))
    except ray.exceptions.RayTaskError as exc:
        raise exc.cause from exc
    finally:
        for ref in pending:
            cancel(ref)


def _shared(calls: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """The calls, with a reference in place of each argument that is one object in all of them."""
    if len(calls) < 2:
        return list(calls)
    of_all = {
        i: ray.put(first)
        for i, first in enumerate(calls[0])
        if not isinstance(first, str | int | float | NoneType) and all(call[i] is first for call in calls)
    }
    return [tuple(of_all.get(i, value) for i, value in enumerate(call)) for call in calls]


def executor_for(*, small: bool) -> RayExecutor | LocalThreads:
    """Where planning and merging run: in Ray tasks, but ``small`` work beside a local Ray in this process."""
    return LocalThreads() if small and is_local() else RayExecutor()


class RayExecutor:
    """``on_cluster`` and ``each_on_cluster`` as ``host.executor.Executor``."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As ``on_cluster``."""
        return on_cluster(function, *args, **kwargs)

    def each(
        self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]], memory_bytes: int | None = None
    ) -> Iterator[R]:
        """As ``each_on_cluster``."""
        return each_on_cluster(function, calls, memory_bytes)


def _task_memory() -> int:
    """What planning and merging may use: at most half of the largest node, or it could not be placed."""
    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    return int(min(TASK_MEMORY_BYTES, largest / 2))
