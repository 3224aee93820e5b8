"""The Ray cluster at hand: connecting, what it offers, and running one function on it."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar

import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from pix2score.errors import ConfigError, Pix2ScoreError
from pix2score.local_ray import Ahead, num_local_cores, start_local
from pix2score.publishing import LocalThreads

logger = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")

Device: TypeAlias = Literal["auto", "cpu", "gpu"]
TASK_MEMORY_BYTES = 3 * 2**30
PART_MEMORY_BYTES = 2**30
DECODE_POOL = {"pool": "decode"}
"""Label of CPU nodes that decode, as in cluster.yaml."""
MAX_PREDICTORS = 256
"""Of an autoscaling pool; Ray's scheduler slows down beyond some 500 actors."""
MAX_CALLS = 8
"""Forward passes side by side in one predictor on CPUs: each needs memory of its own for a batch."""
CONNECT_TIMEOUT_S = 10.0
_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class Offer:
    """What a cluster has. ``num_cores`` are real cores, ``cpus_per_core`` how many of Ray's CPUs stand for one."""

    num_gpus: int
    num_cores: int
    num_nodes: int
    cpus_per_core: float
    has_decode_pool: bool = False
    """Whether nodes labelled for decoding are there, so that GPU nodes can keep their cores for the GPUs."""
    num_decode_cpus: int = 1
    """Cores that decode."""

    def wants_gpu(self, device: Device) -> bool:
        """Whether to use GPUs. Raises ``ConfigError`` if they were asked for and there are none."""
        if device == "gpu" and not self.num_gpus:
            raise ConfigError(
                f"--device gpu, but this cluster has {self.num_nodes} node(s) with {self.num_cores} CPUs and no GPU; "
                f"use --device cpu, or --gpu-wait-s 900 if the autoscaler can bring one"
            )
        return device != "cpu" and self.num_gpus > 0

    def predictor_calls(self) -> int:
        """Forward passes that run side by side in a predictor on CPUs, which share its cores evenly."""
        return min(MAX_CALLS, self._node_cores())

    def _node_cores(self) -> int:
        return max(1, self.num_cores // self.num_nodes)

    def predictor_settings(self, *, use_gpu: bool, num_calls: int = 1) -> dict[str, Any]:
        """``device`` and ``num_threads`` per call of a predictor actor: one per GPU, or one per node with all its cores."""
        if use_gpu:
            return {"device": "cuda", "num_threads": None}
        return {"device": "cpu", "num_threads": self._node_cores() // num_calls}

    def predictor_pool(self, *, use_gpu: bool, num_batches: int, num_calls: int = 1) -> ActorPoolStrategy:
        """One predictor per GPU, growing onto GPUs that join later; without GPUs one per node. ``num_calls``: forward passes at a time."""
        now = max(1, min(self.num_gpus if use_gpu else self.num_nodes, num_batches))
        most = max(now, min(MAX_PREDICTORS, num_batches)) if use_gpu else now
        return ActorPoolStrategy(
            min_size=1,
            max_size=most,
            initial_size=now,
            max_concurrent_calls_per_actor=max(2, num_calls),  # the next rows are at hand when a call ends
            enable_true_multi_threading=num_calls > 1,
        )

    def decode_placement(self) -> dict[str, Any]:
        """Options of CPU-heavy tasks: on the decode pool if there is one, else anywhere; one per core on a local Ray."""
        if self.cpus_per_core > 1:
            return {"compute": TaskPoolStrategy(size=self.num_cores), "num_cpus": 1}
        if self.has_decode_pool:
            return {"num_cpus": 1, "label_selector": DECODE_POOL}
        return {"num_cpus": 1}


@contextlib.contextmanager
def session(*, gpu_wait_s: float = 0, ahead: Ahead[Any] | None = None) -> Iterator[Offer]:
    """Ray is connected: to the one already connected, that of ``RAY_ADDRESS`` (set inside ``ray job submit``), or a local one.

    ``gpu_wait_s``: ask the autoscaler for a GPU if there is none, and wait so long for it. ``ahead``: work that needs no Ray, begun while a
    local one starts. What this started ends with it. Raises ``ConfigError`` if no Ray answers at ``RAY_ADDRESS``.
    """
    started = not ray.is_initialized()
    if started:
        _connect(os.environ.get("RAY_ADDRESS"), ahead)
    try:
        if gpu_wait_s:
            _await_gpu(gpu_wait_s)
        yield _offer()
    except Exception as exc:
        ours = _own_error(exc)
        if ours is exc or ours is None:
            raise
        raise ours from exc
    finally:
        if started:
            ray.shutdown()


def _own_error(exc: BaseException) -> Pix2ScoreError | None:
    """Our own error inside what Ray wraps around an exception of a worker."""
    seen: list[BaseException] = []
    inner: BaseException | None = exc
    while inner is not None and inner not in seen:
        if isinstance(inner, Pix2ScoreError) and not isinstance(inner, ray.exceptions.RayTaskError):
            return inner
        seen.append(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    return None


def _connect(address: str | None, ahead: Ahead[Any] | None) -> None:
    quiet_libraries()
    try:
        if address:
            _probe(address)
            ray.init(address=address, logging_level=logging.WARNING)
        else:
            if ahead:
                ahead.start()
            start_local(num_local_cores())
    except OSError as exc:  # ConnectionError and a refused or unknown host
        raise ConfigError(f"no Ray answers at RAY_ADDRESS={address}: {exc}") from None


def _probe(address: str) -> None:
    """Raise ``OSError`` unless something listens at host:port: Ray itself would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


def _await_gpu(timeout_s: float) -> None:
    if ray.cluster_resources().get("GPU", 0):
        return
    logger.info("asking for a GPU node, waiting up to %.0f s", timeout_s)
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=[{"GPU": 1}])
    try:
        deadline = time.monotonic() + timeout_s
        while not ray.cluster_resources().get("GPU", 0) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
    finally:
        request_resources(bundles=[])  # the work itself holds the node from here on


def quiet_libraries() -> None:
    """Ray Data's own chatter is off; progress is logged by this package."""
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")  # a small job has fewer tasks than cores


def is_local() -> bool:
    """Whether Ray was, or would be, started on this machine by this process, and not found at ``RAY_ADDRESS``."""
    return not os.environ.get("RAY_ADDRESS")


def _offer() -> Offer:
    nodes = [node for node in ray.nodes() if node["Alive"]]
    total = ray.cluster_resources()
    cpus = total.get("CPU", 1.0)
    cores = num_local_cores() if is_local() and len(nodes) == 1 else int(cpus)
    decode_pool = [node["Resources"].get("CPU", 0) for node in nodes if node.get("Labels", {}).items() >= DECODE_POOL.items()]
    working = sum(1 for node in nodes if node["Resources"].get("CPU", 0) >= 1)
    return Offer(
        int(total.get("GPU", 0)), cores, max(1, working), max(1.0, cpus / cores), bool(decode_pool), int(sum(decode_pool)) or cores
    )


def on_cluster(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """``function(*args)`` run as one Ray task with declared memory; its own exception comes out as it was raised."""
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


def workers(*, small: bool) -> ClusterWorkers | LocalThreads:
    """Where planning and rewriting run: as Ray tasks; but ``small`` work beside a local Ray in this process, which needs no start."""
    return LocalThreads() if small and is_local() else ClusterWorkers()


class ClusterWorkers:
    """``on_cluster`` and ``each_on_cluster`` as ``publishing.Workers``."""

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """As ``on_cluster``."""
        return on_cluster(function, *args, **kwargs)

    def each(self, function: Callable[..., R], calls: Sequence[tuple[Any, ...]]) -> Iterator[R]:
        """As ``each_on_cluster``."""
        return each_on_cluster(function, calls)


def _task_memory() -> int:
    """What planning and rewriting may use, but never more than half of the largest node, where it could not be placed."""
    largest = max((node["Resources"].get("memory", 0) for node in ray.nodes() if node["Alive"]), default=0)
    return int(min(TASK_MEMORY_BYTES, largest / 2))
