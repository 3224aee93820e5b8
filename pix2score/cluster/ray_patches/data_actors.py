"""Ray Data on a Ray of one machine, without the actors that serve what one machine does not have.

That is a dashboard and an autoscaler, and what keeps track of the node of each actor. Each is a process that
imports ray.data for as long as it takes to score some hundred images (1.1 s of a core). Ray has no setting
for them.
"""

from __future__ import annotations

import contextlib
import uuid
from typing import Any

import ray

from pix2score.cluster.ray_patches.lookup import asked, replaced

_STATS = "ray.data._internal.stats:_StatsManager"
_EXECUTION = "ray.data._internal.execution"


def without_side_actors() -> contextlib.AbstractContextManager[None]:
    """Start no actor for statistics, for autoscaling, or for where actors are, beside a pipeline.

    Of pipelines that this process runs inside the block.
    """
    nothing = staticmethod(_nothing)
    changes: dict[str, Any] = {
        f"{_STATS}.register_dataset_to_stats_actor": nothing,
        f"{_STATS}.update_execution_metrics": nothing,
        f"{_STATS}.update_iteration_metrics": nothing,
        f"{_STATS}.gen_dataset_id_from_stats_actor": staticmethod(lambda: uuid.uuid4().hex),
        f"{_EXECUTION}.operators.actor_pool_map_operator:get_or_create_actor_location_tracker": _Tracker,
        f"{_EXECUTION}.operators.actor_pool_map_operator:get_actor_locations": lambda actors: {},
    }
    if asked("ray.data._internal.cluster_autoscaler:ClusterAutoscaler") is not None:
        changes[f"{_EXECUTION}.streaming_executor:create_cluster_autoscaler"] = _autoscaler
    return replaced(changes)


def _nothing(*_: Any, **__: Any) -> None:
    pass


class _Tracker:
    """Stands in for the actor that workers report their node to."""

    class update_actor_location:  # noqa: N801  # as Ray's has it
        """The one method of it that workers call."""

        remote = staticmethod(_nothing)


def _autoscaler(*_: Any, **__: Any) -> Any:
    """An autoscaler of a cluster that never changes."""
    resources = ray.data.ExecutionResources.from_resource_dict(ray.cluster_resources())
    base: Any = asked("ray.data._internal.cluster_autoscaler:ClusterAutoscaler")

    class OneMachine(base):  # type: ignore[misc]
        def try_trigger_scaling(self) -> None:
            pass

        def on_executor_shutdown(self) -> None:
            pass

        def get_total_resources(self) -> ray.data.ExecutionResources:
            return resources

    return OneMachine()
