"""Where a function runs: in a Ray task with declared memory, or small work in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import ray

from pix2score.cluster.local import is_local
from pix2score.nightly.executor import LocalThreads

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


def each_on_cluster(function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> Iterator[R]:
    """``function(*call)`` of every call, as Ray tasks side by side; results in order, as they are ready."""
    remote = ray.remote(num_cpus=1, memory=min(PART_MEMORY_BYTES, _task_memory()), max_retries=3)(function)
    pending = [remote.remote(*call) for call in calls]
    for ref in pending:
        try:
            yield ray.get(ref)
        except ray.exceptions.RayTaskError as exc:
            raise exc.cause from exc


def executor_for(*, small: bool) -> RayExecutor | LocalThreads:
    """Where planning and merging run: in Ray tasks, but ``small`` work beside a local Ray in this process."""
    return LocalThreads() if small and is_local() else RayExecutor()


class RayExecutor:
    """``on_cluster`` and ``each_on_cluster`` as ``nightly.executor.Executor``."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As ``on_cluster``."""
        return on_cluster(function, *args, **kwargs)

    def each(self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> Iterator[R]:
        """As ``each_on_cluster``."""
        return each_on_cluster(function, calls)


def _task_memory() -> int:
    """What planning and merging may use: at most half of the largest node, or it could not be placed."""
    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    return int(min(TASK_MEMORY_BYTES, largest / 2))
