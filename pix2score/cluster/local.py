"""A Ray of this machine alone: started with what a single job needs, and work that needs no Ray done while it
starts.

Measured with one image on two cores, from command to exit: see README, "What a run costs before its first
image".
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Generic, TypeVar

import ray

from pix2score.cluster.ray_patches import quick_node, replaced
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
    with _settings_of_its_processes(max(min_slots, MIN_LOCAL_CPUS)), quick_node():
        ray.init(
            address="local",
            num_cpus=max(min_slots, cores),
            include_dashboard=False,
            log_to_driver=False,  # without a dashboard Ray Train's helpers complain every second
            logging_level=logging.ERROR,
            _temp_dir=temp,
        )


@contextlib.contextmanager
def python_signals() -> Iterator[None]:
    """A Ray that is connected to inside the block leaves signals to Python: its C++ handler aborts over
    SIGTERM, for good."""
    try:
        from ray._private import ray_constants
    except ImportError:  # a Ray that is made otherwise
        yield
        return
    with replaced([(ray_constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True)]):
        yield


@contextlib.contextmanager
def _settings_of_its_processes(num_slots: int) -> Iterator[None]:
    """In the environment while they start; what is set already stays."""
    settings = {
        # Ray's C++ side writes warnings about its own actors and slots straight to the terminal, where people
        # take them for ours.
        # It announces its level in one line of its own, which is let through: file descriptor 2 is not only
        # Ray's.
        "RAY_BACKEND_LOG_LEVEL": "fatal",
        # A worker that nothing asks for costs 0.5 s of a core for each CPU.
        "RAY_prestart_worker_first_driver": "0",
        "RAY_worker_maximum_startup_concurrency": str(num_slots),
    }
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


class Ahead(Generic[R]):
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
    """Whether Ray runs, or is about to, on this machine for this process alone, and not found at
    ``RAY_ADDRESS`` or by the caller."""
    return LOCAL.is_set()
