"""Ray Data is patched for the pipelines of a local session, and never after."""

from __future__ import annotations

from pix2score.cluster.ray_patches import data_actors
from pix2score.cluster.ray_patches.data_actors import without_side_actors


def test_ray_data_is_as_it_was_afterwards() -> None:
    from ray.data._internal import stats
    from ray.data._internal.execution import streaming_executor

    before = (stats._StatsManager.update_execution_metrics, streaming_executor.create_cluster_autoscaler)
    with without_side_actors():  # perhaps inside that of a session
        assert streaming_executor.create_cluster_autoscaler is data_actors._autoscaler
    assert (
        stats._StatsManager.update_execution_metrics,
        streaming_executor.create_cluster_autoscaler,
    ) == before
