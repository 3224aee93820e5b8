"""The private and unstable names of Ray that this package uses; a test asks the installed Ray for each.

``module:attribute`` or ``module:Class.attribute``.
"""

from __future__ import annotations

from typing import Final

PATCHED: Final = (
    # What a Ray of one machine starts beside its scheduler: ``local_start``.
    "ray._private.node:Node.start_monitor",
    "ray._private.node:Node.start_log_monitor",
    "ray._private.node:Node.start_api_server",
    "ray._private.utils:get_dashboard_dependency_error",
    "ray._private.services:get_node",
    "ray._private.services:start_ray_process",
    # Whose handler of signals is in force.
    "ray._private.ray_constants:RAY_DISABLE_FAILURE_SIGNAL_HANDLER",
    # Actors that Ray Data starts beside a pipeline: ``data_actors``.
    "ray.data._internal.stats:_StatsManager.register_dataset_to_stats_actor",
    "ray.data._internal.stats:_StatsManager.update_execution_metrics",
    "ray.data._internal.stats:_StatsManager.update_iteration_metrics",
    "ray.data._internal.stats:_StatsManager.gen_dataset_id_from_stats_actor",
    "ray.data._internal.execution.streaming_executor:create_cluster_autoscaler",
    "ray.data._internal.execution.operators.actor_pool_map_operator:get_or_create_actor_location_tracker",
    "ray.data._internal.execution.operators.actor_pool_map_operator:get_actor_locations",
    # The thread that cancels what is left of a pipeline: ``cancelling``.
    "ray.data._internal.execution.interfaces.physical_operator:OpTask._cancel",
)
"""Replaced for a while; left as they are where Ray lacks them, and under ``PIX2SCORE_PLAIN_RAY=1``."""

ASKED: Final = (
    "ray:ObjectRef._on_completed",
    "ray._private.worker:_global_node",
    "ray._raylet:InnerGcsClient.get_all_node_info",
    "ray._raylet:GcsClient",
    "ray._raylet:AuthenticationTokenLoader.instance",
    "ray._raylet:AuthenticationTokenLoader.has_token",
    "ray._raylet:AuthenticationTokenLoader.reset_cache",
    "ray._raylet:AuthenticationTokenLoader",
    "ray._raylet:Config.initialize",
    "ray._raylet:Config",
    "ray.data._internal.cluster_autoscaler:ClusterAutoscaler.try_trigger_scaling",
    "ray.data._internal.cluster_autoscaler:ClusterAutoscaler.on_executor_shutdown",
    "ray.data._internal.cluster_autoscaler:ClusterAutoscaler.get_total_resources",
    "ray.data._internal.cluster_autoscaler:ClusterAutoscaler",
    "ray.autoscaler.sdk:request_resources",
    "ray.train:get_preemption_info",
    "ray.train.v2._internal.constants:CHECKPOINT_MANAGER_SNAPSHOT_FILENAME",
    "ray.util.metrics:Counter",
    "ray.util.metrics:Gauge",
)
"""Called or read; where Ray lacks one, the work goes on without what it would have given."""

NEEDED: Final = (
    "ray.data:Dataset.iter_internal_ref_bundles",
    "ray.data._internal.execution.interfaces.ref_bundle:RefBundle.block_refs",
    "ray.data._internal.execution.interfaces.ref_bundle:RefBundle.slices",
    "ray.data._internal.execution.interfaces.ref_bundle:BlockSlice.start_offset",
    "ray.data._internal.execution.interfaces.ref_bundle:BlockSlice.end_offset",
)
"""Without these no pipeline can be staged: ``bundles``."""

SETTINGS: Final = (
    "RAY_BACKEND_LOG_LEVEL",
    "RAY_prestart_worker_first_driver",
    "RAY_worker_maximum_startup_concurrency",
    "RAY_agent_manager_retry_interval_ms",
)
"""Environment variables of Ray's own processes: ``local_start``."""
