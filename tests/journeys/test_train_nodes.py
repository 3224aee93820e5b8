"""Nodes that are announced to go, that go, and that come, while a model trains: Ray's own drain, real raylets
killed and started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pix2score.dataset.card import open_dataset
from pix2score.demo.catalog import draw_catalog
from pix2score.model.folder import load_model
from tests.support.chain import history
from tests.support.drivers import Job, Ray, command_line, descendants, ray_cluster, started_node
from tests.support.nodes import BIN, environment

EPOCHS, BATCH_SIZE = 30, 2
WARNING = "a node is about to be taken away: checkpoint now"


def raylet_of(node_pid: int) -> int:
    """Process id of the raylet that a ``ray start`` began."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := [pid for pid in descendants(node_pid) if "raylet/raylet" in command_line(pid)]:
            return found[0]
        time.sleep(0.1)
    raise AssertionError("the node did not start")


def run(ray_cluster: Ray, *command: str) -> str:
    """Standard output of a command that knows the cluster."""
    known = {**environment(), **ray_cluster.settings, "RAY_ADDRESS": ray_cluster.address}
    done = subprocess.run([*command], env=known, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def node_ids(cluster: Ray) -> set[str]:
    """Of the nodes that are alive."""
    script = (
        "import ray; ray.init(log_to_driver=False); print(*[node['NodeID'] for node in ray.nodes() if "
        "node['Alive']])"
    )
    return set(run(cluster, sys.executable, "-c", script).splitlines()[-1].split())


def epochs(out: Path) -> list[dict[str, Any]]:
    """What is written of the epochs so far."""
    return history(out) if (out / "history.jsonl").exists() else []


@pytest.fixture
def cluster() -> Iterator[Ray]:
    """A head of four CPUs, so that it has room for one worker of three."""
    # Passive: two workers of two threads each on two cores would spin most of their time.
    with ray_cluster(
        {"RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "OMP_WAIT_POLICY": "passive"}
    ) as started:
        yield started


@pytest.fixture
def dataset(cluster: Ray, tmp_path: Path) -> str:
    """Prepared drawings."""
    catalog, out = tmp_path / "catalog", str(tmp_path / "dataset")
    catalog.mkdir()
    draw_catalog(catalog, num_pictures=130, seed=5)
    cluster.start(
        "prepare", f"--catalog={catalog}", f"--out={out}", "--image-size=64", "--val-fraction=0.2"
    ).done()
    return out


@pytest.mark.endurance
@pytest.mark.timeout(900)
def test_workers_leave_with_their_node_and_join_with_another_one(
    cluster: Ray, dataset: str, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    head, flags = node_ids(cluster), (f"--address={cluster.address}", "--num-cpus=4")

    def until_epoch(job: Job, what: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        found: dict[str, Any] = job.until(
            lambda: next((entry for entry in epochs(out) if what(entry)), None), timeout_s=240
        )
        return found

    with started_node(*flags, settings=cluster.settings) as second:
        raylet = raylet_of(second.pid)
        while len(node_ids(cluster)) < 2:
            time.sleep(0.2)
        (leaving,) = node_ids(cluster) - head
        job = cluster.start(
            "train",
            f"--data={dataset}",
            f"--out={out}",
            "--backbone=resnet18",
            "--input-size=32",
            f"--epochs={EPOCHS}",
            f"--batch-size={BATCH_SIZE}",
            "--num-workers=1..2",
            "--cpus-per-worker=3",
            "--device=cpu",
        )
        both = until_epoch(job, lambda entry: entry["workers"] == 2)
        reason = (
            "--reason=DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message=reclaimed",
            "--deadline-remaining-seconds=60",
        )
        run(
            cluster,
            str(BIN / "ray"),
            "drain-node",
            f"--node-id={leaving}",
            f"--address={cluster.address}",
            *reason,
        )
        job.until(lambda: WARNING in job.log, timeout_s=120)
        time.sleep(1)  # the checkpoint is written
        os.kill(raylet, signal.SIGKILL)
    alone = until_epoch(job, lambda entry: entry["workers"] == 1)
    with started_node(*flags, settings=cluster.settings):
        again = until_epoch(job, lambda entry: entry["workers"] == 2 and entry["epoch"] > alone["epoch"])
        summary = job.done(timeout_s=300)
    print(
        f"two workers in epoch {both['epoch']}, one in {alone['epoch']}, two again in {again['epoch']} of "
        f"{EPOCHS}"
    )
    assert "resuming after epoch" in job.log
    print(*[line for line in job.log.splitlines() if "resuming" in line or WARNING in line], sep="\n")
    steps = open_dataset(dataset).num_rows("train") // (2 * BATCH_SIZE)
    assert [(entry["epoch"], entry["steps"]) for entry in epochs(out)] == [
        (i, i * steps) for i in range(1, EPOCHS + 1)
    ]
    assert load_model(str(out))[0].version == summary["model_version"]
