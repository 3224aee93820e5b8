"""Ray's node is patched while a local Ray starts, and never after."""

from __future__ import annotations

import pytest

from pix2score.cluster.ray_patches.local_start import quick_node


def test_ray_is_as_it_was_afterwards() -> None:
    from ray._private import services
    from ray._private.node import Node

    before = (Node.start_log_monitor, services.get_node, services.start_ray_process)
    with quick_node():
        assert Node.start_log_monitor is not before[0]
        assert services.start_ray_process is not before[2]
    assert (Node.start_log_monitor, services.get_node, services.start_ray_process) == before


def test_a_ray_that_is_made_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import node, services

    monkeypatch.delattr(node.Node, "start_monitor")
    monkeypatch.delattr(services, "get_node")
    with quick_node():
        assert not hasattr(services, "get_node")
    assert not hasattr(node.Node, "start_monitor")
