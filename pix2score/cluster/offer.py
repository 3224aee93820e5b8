"""What the cluster at hand offers to a stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pix2score.cli.flags import Device
from pix2score.errors import ConfigError

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy


DECODE_POOL = {"pool": "decode"}
"""Label of CPU nodes that decode, as in cluster.yaml."""
MAX_PREDICTORS = 256
"""Of an autoscaling pool; Ray's scheduler slows down beyond some 500 actors."""
CORES_PER_ACTOR = 4
"""Of actors that decode and predict: more share one Python interpreter, fewer hold more copies of the
model."""
CALLS_PER_CORE = 2
"""Of such an actor: while one waits for its decoder, the core works on another."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a cluster has.

    ``num_cores`` are real cores, ``cpus_per_core`` how many of Ray's CPUs stand for one.
    """

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
                f"--device gpu, but this cluster has {self.num_nodes} node(s) with {self.num_cores} CPUs and "
                "no GPU; "
                f"use --device cpu, or --gpu-wait-s 900 if the autoscaler can bring one"
            )
        return device != "cpu" and self.num_gpus > 0

    def predictor_settings(self, *, use_gpu: bool) -> dict[str, Any]:
        """``device`` and ``num_threads`` of a predictor actor.

        One per GPU, or one per node with all its cores.
        """
        if use_gpu:
            return {"device": "cuda", "num_threads": None}
        return {"device": "cpu", "num_threads": self._node_cores()}

    def predictor_pool(self, *, use_gpu: bool, num_batches: int) -> ActorPoolStrategy:
        """One predictor per GPU, growing onto GPUs that join later; without GPUs one per node."""
        from ray.data import ActorPoolStrategy

        now = max(1, min(self.num_gpus if use_gpu else self.num_nodes, num_batches))
        most = max(now, min(MAX_PREDICTORS, num_batches)) if use_gpu else now
        return ActorPoolStrategy(
            min_size=1, max_size=most, initial_size=now, max_concurrent_calls_per_actor=2
        )

    def _node_cores(self) -> int:
        return max(1, self.num_cores // self.num_nodes)

    def cpu_workers(self) -> CpuWorkers:
        """Actors for work that decodes and predicts on CPUs."""
        cores = self._node_cores()
        per_node = -(-cores // CORES_PER_ACTOR)
        spare = 0 if self.cpus_per_core > 1 else 1  # of a node's CPUs, for the tasks that write
        return CpuWorkers(
            per_node * self.num_nodes,
            max(0.5, (cores - spare) / per_node),
            CALLS_PER_CORE * -(-cores // per_node),
        )

    def decode_placement(self) -> dict[str, Any]:
        """Options of CPU-heavy tasks: on the decode pool if there is one, else anywhere.

        One per core on a local Ray.
        """
        if self.cpus_per_core > 1:
            from ray.data import TaskPoolStrategy

            return {"compute": TaskPoolStrategy(size=self.num_cores), "num_cpus": 1}
        if self.has_decode_pool:
            return {"num_cpus": 1, "label_selector": DECODE_POOL}
        return {"num_cpus": 1}


@dataclass(frozen=True, slots=True)
class CpuWorkers:
    """Actors that do everything on CPUs.

    How many, the CPUs each asks Ray for, and how many calls it works on at a time.
    """

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
