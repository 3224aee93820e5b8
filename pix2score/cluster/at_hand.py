"""Work of a job without a pipeline, on the cluster that is there: it starts none, and without one loads no
Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pix2score.host.executor import Executor, LocalThreads

C = TypeVar("C")
_LOCAL = ("", "local")


def at_hand(function: Callable[[C, Executor], Mapping[str, Any]]) -> Callable[[C], Mapping[str, Any]]:
    """``function(config, executor)`` as one of the config alone.

    ``executor``: tasks of the Ray at ``RAY_ADDRESS``, which is set inside ``ray job submit``; without it
    threads of this process.
    """

    def run(config: C) -> Mapping[str, Any]:
        if os.environ.get("RAY_ADDRESS", "").strip() in _LOCAL:
            return function(config, LocalThreads())
        from pix2score.cluster.session import session
        from pix2score.cluster.tasks import RayExecutor

        with session():
            return function(config, RayExecutor())

    return run
