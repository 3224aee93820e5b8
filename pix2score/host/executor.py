"""Where work runs that is cut into calls: a cluster, or this very process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

from pix2score.host.cores import num_cores

P = ParamSpec("P")
R = TypeVar("R")


class Executor(Protocol):
    """Where functions run: a cluster, or this very process."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``function(*args)``, with memory to sort in."""

    def each(
        self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]], memory_bytes: int | None = None
    ) -> Iterator[R]:
        """``function(*call)`` of every call, side by side, results in order; ``memory_bytes``: of each."""


class LocalThreads:
    """``Executor`` in this process: one thread per core."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``function(*args)``."""
        return function(*args, **kwargs)

    def each(
        self,
        function: Callable[..., R],
        calls: Sequence[tuple[Any, ...]],
        memory_bytes: int | None = None,  # noqa: ARG002 - that of this process
    ) -> Iterator[R]:
        """``function(*call)`` of every call, as many at a time as there are cores."""
        with ThreadPoolExecutor(num_cores()) as pool:
            yield from pool.map(lambda call: function(*call), calls)
