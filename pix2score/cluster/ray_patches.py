"""Ray Data on a Ray of one machine: without the actors that serve a dashboard and an autoscaler, which are
not there, and the one that knows on which node an actor is.

Each is a process that imports ray.data for as long as it takes to score some hundred images (1.1 s of a
core). Ray has no setting for them; its version is pinned, and what a later one does not have is left alone.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator
from typing import Any

import ray

_DAEMONS = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of Ray's node: the autoscaler, what copies workers' logs to the terminal, and the dashboard, which
runs even when it is not wanted. A single machine has no use for them, and they cost 2 s of its start and end
(two cores)."""
_REGISTERED_WITHIN_S = 10.0
_REGISTERED_POLL_S = 0.02


@contextlib.contextmanager
def without_side_actors() -> Iterator[None]:
    """Pipelines that this process runs inside the block start no actor for statistics, for autoscaling, or
    for where actors are."""
    from ray.data._internal import stats
    from ray.data._internal.execution import streaming_executor
    from ray.data._internal.execution.operators import actor_pool_map_operator

    manager = getattr(stats, "_StatsManager", object)
    changes: list[tuple[Any, str, Any]] = [
        (manager, "register_dataset_to_stats_actor", staticmethod(_nothing)),
        (manager, "update_execution_metrics", staticmethod(_nothing)),
        (manager, "update_iteration_metrics", staticmethod(_nothing)),
        (manager, "gen_dataset_id_from_stats_actor", staticmethod(lambda: uuid.uuid4().hex)),
        (streaming_executor, "create_cluster_autoscaler", _autoscaler),
        (actor_pool_map_operator, "get_or_create_actor_location_tracker", _Here),
        (actor_pool_map_operator, "get_actor_locations", lambda actors: {}),
    ]
    with replaced(changes):
        yield


@contextlib.contextmanager
def replaced(changes: list[tuple[Any, str, Any]]) -> Iterator[None]:
    """(owner, name, value): attributes that are there have these values inside the block, and their own
    afterwards."""
    kept = [(owner, name, vars(owner)[name], new) for owner, name, new in changes if name in vars(owner)]
    for owner, name, _, new in kept:
        setattr(owner, name, new)
    try:
        yield
    finally:
        for owner, name, old, _ in kept:
            setattr(owner, name, old)


def _nothing(*_: Any, **__: Any) -> None:
    pass


class _Here:
    """Stands in workers for the actor that they would tell their node."""

    class update_actor_location:  # noqa: N801  # as Ray's has it
        """Takes the news, and needs none."""

        remote = staticmethod(_nothing)


def _autoscaler(*_: Any, **__: Any) -> Any:
    """A cluster that is what it is."""
    import ray
    from ray.data import ExecutionResources
    from ray.data._internal.cluster_autoscaler import ClusterAutoscaler

    resources = ExecutionResources.from_resource_dict(ray.cluster_resources())

    class OneMachine(ClusterAutoscaler):  # type: ignore[misc, unused-ignore]
        def try_trigger_scaling(self) -> None:
            pass

        def on_executor_shutdown(self) -> None:
            pass

        def get_total_resources(self) -> ExecutionResources:
            return resources

    return OneMachine()


@contextlib.contextmanager
def quick_node() -> Iterator[None]:
    """Ray's node starts without ``_DAEMONS``, without the dashboard's packages, and is seen as soon as it is
    there.

    Ray has no settings for these. A Ray that is made otherwise starts as it does by itself.
    """
    try:
        from ray._private import node, services, utils
    except ImportError:
        yield
        return
    owner, find = getattr(node, "Node", object), getattr(services, "get_node", None)

    def found(address: str, node_id: str) -> Any:
        _await_node(address, node_id)
        return find(address, node_id)  # type: ignore[misc]

    changes: list[tuple[Any, str, Any]] = [(owner, name, _nothing) for name in _DAEMONS]
    changes.append(
        (utils, "get_dashboard_dependency_error", lambda: ImportError("not wanted"))
    )  # imports for half a second
    changes.append((services, "get_node", found))
    with replaced(changes):
        yield


def _await_node(address: str, node_id: str) -> None:
    """Until the node has registered; Ray itself looks once a second."""
    with contextlib.suppress(Exception):  # then Ray waits, or says what is wrong
        client = ray._raylet.GcsClient(address=address)
        deadline = time.monotonic() + _REGISTERED_WITHIN_S
        while time.monotonic() < deadline:
            if any(found.hex() == node_id for found in client.get_all_node_info(timeout=1)):
                return
            time.sleep(_REGISTERED_POLL_S)
