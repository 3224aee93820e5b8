"""cluster.yaml against Ray's own schema, and what a cluster's offer makes of placement."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import yaml

from pix2score.cluster.local import is_local
from pix2score.cluster.offer import DECODE_POOL, Offer
from pix2score.cluster.session import session
from pix2score.errors import ConfigError
from tests.support.paths import ROOT

CLUSTER = ROOT / "cluster.yaml"


def config() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CLUSTER.read_text())
    return loaded


def check(content: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(copy.deepcopy(content)))


def test_cluster_yaml_is_what_the_launcher_accepts() -> None:
    check(config())


def test_the_check_refuses_an_unknown_key() -> None:
    from jsonschema.exceptions import ValidationError

    with pytest.raises(ValidationError, match="sopt"):
        check({**config(), "sopt": True})


def test_the_head_runs_no_work_and_the_decode_pool_has_the_label_that_jobs_look_for() -> None:
    types = config()["available_node_types"]
    assert types[config()["head_node_type"]]["resources"] == {"CPU": 0}
    assert types["decode"]["labels"] == DECODE_POOL
    assert types["decode"]["min_workers"] >= 1
    assert types["gpu"]["resources"]["GPU"] >= 1
    assert sum(t.get("max_workers", 0) for t in types.values()) == config()["max_workers"]


def test_usage_statistics_are_off_on_every_node() -> None:
    content = config()
    for commands in (content["head_start_ray_commands"], content["worker_start_ray_commands"]):
        assert all("RAY_USAGE_STATS_ENABLED=0" in command for command in commands if "ray start" in command)


def test_decoding_goes_to_its_pool_where_there_is_one() -> None:
    pooled = Offer(num_gpus=1, num_cores=36, num_nodes=3, cpus_per_core=1.0, has_decode_pool=True)
    assert pooled.decode_placement()["label_selector"] == DECODE_POOL
    assert "label_selector" not in Offer(1, 4, 1, 1.0).decode_placement()


def test_predictors_start_on_the_gpus_there_are_and_may_grow() -> None:
    pool = Offer(num_gpus=2, num_cores=36, num_nodes=3, cpus_per_core=1.0).predictor_pool(
        use_gpu=True, num_batches=1000
    )
    assert (pool.initial_size, pool.min_size) == (2, 1)
    assert pool.max_size > 2
    few = Offer(num_gpus=8, num_cores=36, num_nodes=3, cpus_per_core=1.0).predictor_pool(
        use_gpu=True, num_batches=3
    )
    assert (few.initial_size, few.max_size) == (3, 3)


@pytest.mark.parametrize(("cores", "nodes"), [(1, 1), (2, 1), (4, 1), (8, 1), (64, 1), (24, 3)])
def test_workers_on_cpus_use_every_core_and_leave_room_to_write(cores: int, nodes: int) -> None:
    workers = Offer(num_gpus=0, num_cores=cores, num_nodes=nodes, cpus_per_core=1.0).cpu_workers()
    assert workers.num_calls * workers.num_actors >= 2 * cores
    assert workers.num_calls <= 2 * 4
    assert workers.num_cpus >= 0.5
    if cores > nodes:
        assert (
            workers.num_cpus * workers.num_actors <= cores - nodes
        )  # a task that writes half a CPU wide finds its place
    pool = workers.pool(num_tasks=1000)
    assert (pool.initial_size, pool.max_size, pool.enable_true_multi_threading) == (
        workers.num_actors,
        workers.num_actors,
        True,
    )
    assert workers.pool(num_tasks=1).max_size == 1


def test_a_gpu_that_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(ConfigError, match=r"3 node\(s\) with 12 CPUs and no GPU; use --device cpu"):
        Offer(num_gpus=0, num_cores=12, num_nodes=3, cpus_per_core=1.0).wants_gpu("gpu")


def test_no_ray_at_the_address_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    if ray.is_initialized():
        pytest.skip("Ray is already connected in this process")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConfigError, match=r"no Ray answers at RAY_ADDRESS=127\.0\.0\.1:1"), session():
        pass


@pytest.mark.usefixtures("ray_session")
def test_a_ray_that_a_session_started_is_local() -> None:
    assert is_local()
    with session() as offer:
        assert offer.num_nodes == 1
    assert is_local()  # a session inside another ends nothing
