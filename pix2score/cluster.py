"""The Ray cluster at hand: connecting, and what it offers."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import ray

from pix2score import termination
from pix2score.errors import ConfigError, own_error
from pix2score.local_data import without_side_actors
from pix2score.local_ray import MIN_LOCAL_CPUS, Ahead, num_local_cores, python_signals, start_local
from pix2score.ray_address import RayAddress, parse_address, probe, refuse_without_token
from pix2score.ray_token import own_token, use_token_if_there_is_one

if TYPE_CHECKING:  # ray.data takes half a second to import: where it is used, while a local Ray starts
    from ray.data import ActorPoolStrategy

logger = logging.getLogger(__name__)

Device: TypeAlias = Literal["auto", "cpu", "gpu"]
DECODE_POOL = {"pool": "decode"}
"""Label of CPU nodes that decode, as in cluster.yaml."""
MAX_PREDICTORS = 256
"""Of an autoscaling pool; Ray's scheduler slows down beyond some 500 actors."""
CORES_PER_ACTOR = 4
"""Of actors that decode and predict: more share one Python interpreter, fewer hold more copies of the model."""
CALLS_PER_CORE = 2
"""Of such an actor: while one waits for its decoder, the core works on another."""
_POLL_S = 2.0
_local = threading.Event()


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

    def predictor_settings(self, *, use_gpu: bool) -> dict[str, Any]:
        """``device`` and ``num_threads`` of a predictor actor: one per GPU, or one per node with all its cores."""
        if use_gpu:
            return {"device": "cuda", "num_threads": None}
        return {"device": "cpu", "num_threads": self._node_cores()}

    def predictor_pool(self, *, use_gpu: bool, num_batches: int) -> ActorPoolStrategy:
        """One predictor per GPU, growing onto GPUs that join later; without GPUs one per node."""
        from ray.data import ActorPoolStrategy

        now = max(1, min(self.num_gpus if use_gpu else self.num_nodes, num_batches))
        most = max(now, min(MAX_PREDICTORS, num_batches)) if use_gpu else now
        return ActorPoolStrategy(min_size=1, max_size=most, initial_size=now, max_concurrent_calls_per_actor=2)

    def _node_cores(self) -> int:
        return max(1, self.num_cores // self.num_nodes)

    def cpu_workers(self) -> CpuWorkers:
        """Actors for work that decodes and predicts on CPUs."""
        cores = self._node_cores()
        per_node = -(-cores // CORES_PER_ACTOR)
        spare = 0 if self.cpus_per_core > 1 else 1  # of a node's CPUs, for the tasks that write
        return CpuWorkers(per_node * self.num_nodes, max(0.5, (cores - spare) / per_node), CALLS_PER_CORE * -(-cores // per_node))

    def decode_placement(self) -> dict[str, Any]:
        """Options of CPU-heavy tasks: on the decode pool if there is one, else anywhere; one per core on a local Ray."""
        if self.cpus_per_core > 1:
            from ray.data import TaskPoolStrategy

            return {"compute": TaskPoolStrategy(size=self.num_cores), "num_cpus": 1}
        if self.has_decode_pool:
            return {"num_cpus": 1, "label_selector": DECODE_POOL}
        return {"num_cpus": 1}


@dataclass(frozen=True, slots=True)
class CpuWorkers:
    """Actors that do everything on CPUs: how many, the CPUs each asks Ray for, and how many calls it works on at a time."""

    num_actors: int
    num_cpus: float
    num_calls: int

    def pool(self, num_tasks: int) -> ActorPoolStrategy:
        """For a stage of so many tasks."""
        from ray.data import ActorPoolStrategy

        size = max(1, min(self.num_actors, num_tasks))
        return ActorPoolStrategy(
            min_size=1,
            max_size=size,
            initial_size=size,
            max_concurrent_calls_per_actor=self.num_calls,
            max_tasks_in_flight_per_actor=self.num_calls + 2,
            enable_true_multi_threading=True,
        )


@contextlib.contextmanager
def session(*, gpu_wait_s: float = 0, ahead: Ahead[Any] | None = None, min_slots: int = MIN_LOCAL_CPUS) -> Iterator[Offer]:
    """Ray is connected: to the one already connected, that of ``RAY_ADDRESS`` (set inside ``ray job submit``), or a local one.

    ``gpu_wait_s``: ask the autoscaler for a GPU if there is none, and wait so long for it. ``ahead``: work that needs no Ray, begun while a
    local one starts. ``min_slots``: CPUs that a local one has at least, in Ray's account. What this started ends with it.

    Raises ``ConfigError`` if no Ray answers at ``RAY_ADDRESS``. What a worker raised of ours comes out as it was raised.
    """
    with contextlib.ExitStack() as until_end:
        try:
            if not ray.is_initialized():
                _start(until_end, parse_address(os.environ.get("RAY_ADDRESS")), ahead, min_slots)
            if gpu_wait_s:
                _await_gpu(gpu_wait_s)
            with without_side_actors() if is_local() else contextlib.nullcontext():
                yield _offer()
        except BaseException as exc:
            termination.acknowledge(exc)
            ours = own_error(exc)
            if ours is exc or ours is None:
                raise
            raise ours from exc


def _start(until_end: contextlib.ExitStack, address: RayAddress | None, ahead: Ahead[Any] | None, min_slots: int) -> None:
    """Ray is connected; what undoes it is on the stack."""
    until_end.enter_context(termination.handled())
    if address is None:
        _local.set()
        until_end.callback(_local.clear)
        until_end.enter_context(own_token())
        if ahead:
            ahead.start()
    until_end.callback(ray.shutdown)
    with python_signals():
        if address:
            _connect(address)
        else:
            _start_here(min_slots)
    termination.install()  # Ray has set its own
    quiet_libraries()


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
        raise ConfigError(f"no Ray answers at RAY_ADDRESS={address.text}: {' '.join(str(exc).split())}") from None


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
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # else an error of a stage comes out as text
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it logs as an error comes out as an exception too
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")  # a small job has fewer tasks than cores


def is_local() -> bool:
    """Whether Ray runs, or is about to, on this machine for this process alone, and not found at ``RAY_ADDRESS`` or by the caller."""
    return _local.is_set()


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
