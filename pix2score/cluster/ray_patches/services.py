"""Unstable but public parts of Ray: nodes that come and go, counters, the list of checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import ray

from pix2score.cluster.ray_patches.lookup import asked

logger = logging.getLogger(__name__)
CHECKPOINT_LIST = "checkpoint_manager_snapshot.json"
"""Where Ray Train keeps its list of checkpoints, in the folder of a run. Ray names it in
``ray.train.v2._internal.constants``, whose import takes seconds."""


def request_gpus(number: int) -> None:
    """Ask the autoscaler to keep room for ``number`` GPUs, from now on; 0 takes it back."""
    request: Any = asked("ray.autoscaler.sdk:request_resources")
    if request is None:
        logger.warning("this Ray cannot be asked for nodes: a GPU is only waited for")
    else:
        request(bundles=[{"GPU": 1}] * number)


def is_preemption_near() -> bool:
    """Whether a node of the training workers will soon be shut down; False where Ray does not say."""
    info: Any = asked("ray.train:get_preemption_info")
    return info is not None and info() is not None


def metric_counter(name: str, description: str, tags: Sequence[str]) -> Any:
    """A counter that Ray exports to Prometheus; None in a Ray without."""
    counter: Any = asked("ray.util.metrics:Counter")
    return None if counter is None else counter(name, description=description, tag_keys=tuple(tags))


def is_worker() -> bool:
    """Whether this process runs tasks, and is no driver; Ray's own question warns in a driver."""
    worker = getattr(ray.get_runtime_context(), "worker", None)
    return bool(getattr(worker, "mode", None) == ray.WORKER_MODE)
