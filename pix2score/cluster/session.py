"""The Ray cluster at hand: connecting, and what it offers."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import ray

from pix2score.cluster.address import RayAddress, parse_address, probe, refuse_without_token
from pix2score.cluster.alike import check_nodes, told_to_workers
from pix2score.cluster.local import (
    LOCAL,
    MIN_LOCAL_CPUS,
    BackgroundCall,
    is_local,
    num_local_cores,
    start_local,
)
from pix2score.cluster.offer import DECODE_POOL, Offer
from pix2score.cluster.ray_patches.cancelling import cancelling_among_answers
from pix2score.cluster.ray_patches.data_actors import without_side_actors
from pix2score.cluster.ray_patches.local_start import python_signals
from pix2score.cluster.ray_patches.services import request_gpus
from pix2score.cluster.token import own_token, use_token_if_there_is_one
from pix2score.errors import ConfigError, own_error
from pix2score.host import termination

logger = logging.getLogger(__name__)
_POLL_S = 2.0
_BREAKPOINT = "PYTHONBREAKPOINT"


class _Shared:
    """The Ray that all sessions of this process are in, at a time; what undoes it waits for the last one."""

    lock = threading.RLock()
    num_sessions = 0
    until_end = contextlib.ExitStack()


@contextlib.contextmanager
def session(
    *, gpu_wait_s: float = 0, ahead: BackgroundCall[Any] | None = None, min_slots: int = MIN_LOCAL_CPUS
) -> Iterator[Offer]:
    """Connect to Ray, yield what it offers, and end what this started.

    The Ray already connected, that of ``RAY_ADDRESS`` (set inside ``ray job submit``), or a local one.
    ``gpu_wait_s``: ask the autoscaler for a GPU if there is none, and wait so long for it. ``ahead``: work
    that needs no Ray, begun while a local one starts. ``min_slots``: CPUs that a local one has at least, in
    Ray's account. What this started ends with it, or with the last of several sessions side by side; a Ray
    that was connected before goes on as it was.

    Raises ``ConfigError`` if no Ray answers at ``RAY_ADDRESS``, ``VersionSkewError`` if nodes run on other
    versions than this process. What a worker raised of ours comes out as it was raised.
    """
    try:
        with _connected(ahead, min_slots):
            if gpu_wait_s:
                _await_gpu(gpu_wait_s)
            check_nodes()
            yield _offer()
    except BaseException as exc:
        ours = own_error(exc)
        if ours is exc or ours is None:
            raise
        raise ours from exc


@contextlib.contextmanager
def _connected(ahead: BackgroundCall[Any] | None, min_slots: int) -> Iterator[None]:
    """Inside the block Ray is connected. Any thread may be in several blocks, and several threads in one."""
    with contextlib.ExitStack() as until_end:
        try:
            with _Shared.lock:
                if not _Shared.num_sessions:
                    if not ray.is_initialized():
                        until_end.enter_context(termination.handled())  # of this thread alone
                    _Shared.until_end = _begun(ahead, min_slots)
                _Shared.num_sessions += 1
                until_end.callback(_leave)
            yield
        except BaseException as exc:
            termination.acknowledge(exc)
            raise


def _leave() -> None:
    with _Shared.lock:
        _Shared.num_sessions -= 1
        if not _Shared.num_sessions:
            _Shared.until_end.close()


def _begun(ahead: BackgroundCall[Any] | None, min_slots: int) -> contextlib.ExitStack:
    """Ray is connected, and its libraries are as jobs need them; what undoes both."""
    with contextlib.ExitStack() as until_end:
        quiet = until_end.enter_context(contextlib.ExitStack())  # to the end of a Ray that is started here
        if not ray.is_initialized():
            _start(until_end, parse_address(os.environ.get("RAY_ADDRESS")), ahead, min_slots)
        quiet.enter_context(quiet_libraries())
        quiet.enter_context(cancelling_among_answers())
        if is_local():
            until_end.enter_context(without_side_actors())
        until_end.enter_context(told_to_workers())
        return until_end.pop_all()


def _start(
    until_end: contextlib.ExitStack,
    address: RayAddress | None,
    ahead: BackgroundCall[Any] | None,
    min_slots: int,
) -> None:
    """Ray is connected; what undoes it is on the stack."""
    if address is None:
        LOCAL.set()
        until_end.callback(LOCAL.clear)
        until_end.enter_context(own_token())
        if ahead:
            ahead.start()
    until_end.enter_context(_own_breakpoints())
    until_end.callback(ray.shutdown)
    with python_signals(), termination.kept():  # Ray sets its own
        if address:
            _connect(address)
        else:
            _start_here(min_slots)


@contextlib.contextmanager
def _own_breakpoints() -> Iterator[None]:
    """Afterwards ``breakpoint()`` is what it was: Ray leaves its own in the environment."""
    before = os.environ.get(_BREAKPOINT)
    try:
        yield
    finally:
        os.environ.pop(_BREAKPOINT, None)
        if before is not None:
            os.environ[_BREAKPOINT] = before


def _start_here(min_slots: int) -> None:
    try:
        start_local(num_local_cores(), min_slots)
    except (OSError, ValueError) as exc:
        raise ConfigError(f"Ray cannot start on this machine: {exc}") from exc


def _connect(address: RayAddress) -> None:
    probe(address)
    use_token_if_there_is_one()
    refuse_without_token(address)
    os.environ["RAY_ADDRESS"] = address.text  # Ray reads it again, with what stood around it
    try:
        ray.init(address=address.text, logging_level=logging.WARNING)
    except OSError as exc:  # ConnectionError
        raise ConfigError(
            f"no Ray answers at RAY_ADDRESS={address.text}: {' '.join(str(exc).split())}"
        ) from None


def _await_gpu(timeout_s: float) -> None:
    if ray.cluster_resources().get("GPU", 0):
        return
    logger.info("asking for a GPU node, waiting up to %.0f s", timeout_s)
    request_gpus(1)
    try:
        deadline = time.monotonic() + timeout_s
        while not ray.cluster_resources().get("GPU", 0) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    finally:
        request_gpus(0)  # the work itself holds the node from here on


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Inside the block Ray Data's own chatter is off; progress is logged by this package."""
    from ray.data import DataContext

    settings = {
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "raise_original_map_exception": True,  # else an error of a stage comes out as text
    }
    context, of_ray = DataContext.get_current(), logging.getLogger("ray.data")
    before, level = {name: getattr(context, name) for name in settings}, of_ray.level
    with warnings.catch_warnings():
        # A small job has fewer tasks than cores.
        warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")
        of_ray.setLevel(logging.CRITICAL)  # what it logs as an error comes out as an exception too
        _set(context, settings)
        try:
            yield
        finally:
            _set(context, before)
            of_ray.setLevel(level)


def _set(context: Any, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        setattr(context, name, value)


def _offer() -> Offer:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    cpus = total.get("CPU", 1.0)
    cores = num_local_cores() if is_local() and len(nodes) == 1 else int(cpus)
    decode_pool = [
        node["Resources"].get("CPU", 0)
        for node in nodes
        if node.get("Labels", {}).items() >= DECODE_POOL.items()
    ]
    working = sum(1 for node in nodes if node["Resources"].get("CPU", 0) >= 1)
    return Offer(
        int(total.get("GPU", 0)),
        cores,
        max(1, working),
        max(1.0, cpus / cores),
        bool(decode_pool),
        int(sum(decode_pool)) or cores,
    )
