"""A Ray of this machine alone, started with what a single job needs; work without Ray is done meanwhile."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, TypeVar

import ray

from pix2score.cluster.ray_patches.local_start import process_settings, quick_node
from pix2score.cluster.temp import ray_temp
from pix2score.host.cores import num_cores

logger = logging.getLogger(__name__)
LOCAL = threading.Event()
R = TypeVar("R")

MIN_LOCAL_CPUS = 6
"""Logical CPUs of a local Ray: it counts slots, not cores, and a pipeline whose actors hold every slot waits
for ever."""


def has_local_gpu() -> bool:
    """Whether this machine shows an NVIDIA GPU."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def num_local_cores() -> int:
    """Cores this process may run on, by affinity and by its container's quota."""
    return num_cores()


def start_local(cores: int, min_slots: int = MIN_LOCAL_CPUS) -> None:
    """A quiet Ray on this machine, with a CPU in its account for each core and at least ``min_slots``.

    What goes wrong comes out as exceptions.
    """
    logger.info("starting Ray on this machine (%d cores)", cores)
    temp = ray_temp()
    with process_settings(max(min_slots, MIN_LOCAL_CPUS)), quick_node():
        ray.init(
            address="local",
            num_cpus=max(min_slots, cores),
            include_dashboard=False,
            log_to_driver=False,  # without a dashboard Ray Train's helpers complain every second
            logging_level=logging.ERROR,
            _temp_dir=temp,
        )


class BackgroundCall(Generic[R]):
    """One piece of work: begun in a thread with ``start``, else done when its result is asked for."""

    def __init__(self, work: Callable[[], R]) -> None:
        self._work, self._done = work, Future[R]()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins; an interrupted process does not wait for it."""
        self._thread = threading.Thread(target=self._run, name="ahead", daemon=True)
        self._thread.start()

    def result(self) -> R:
        """What the work gave, or the exception that it raised."""
        if self._thread is None:
            return self._work()
        return self._done.result()

    def _run(self) -> None:
        try:
            self._done.set_result(self._work())
        except BaseException as exc:
            self._done.set_exception(exc)


def is_local() -> bool:
    """Whether Ray runs, or is about to, on this machine for this process alone.

    Not one found at ``RAY_ADDRESS`` or connected to by the caller.
    """
    return LOCAL.is_set()
