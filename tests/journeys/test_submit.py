"""The jobs as operators run them: `ray job submit` to a cluster of two nodes, a head that runs no work,
everything on S3."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score import read_scores
from pix2score.demo.catalog import draw_catalog
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.verify import verify
from tests.conftest import BUCKET, SECRET, free_port
from tests.support.chain import upload
from tests.support.models import catalog_of, cheap_model
from tests.support.nodes import BIN, TOKEN, environment, start_node
from tests.support.paths import ROOT

pytestmark = [pytest.mark.endurance, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Cluster:
    """A running Ray cluster: its dashboard and where its logs are."""

    dashboard: str
    address: str
    metrics: str
    logs: Path

    def listed(self, what: str, *filters: str) -> list[dict[str, Any]]:
        """What Ray's state API lists: tasks or nodes."""
        chosen = [word for filter_ in filters for word in ("--filter", filter_)]
        command = [
            str(BIN / "ray"),
            "list",
            what,
            "--address",
            self.dashboard,
            "--format",
            "json",
            "--limit",
            "10000",
            "--detail",
            *chosen,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment(), check=True, timeout=120
        )
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def submit(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [
            str(BIN / "ray"),
            "job",
            "submit",
            "--address",
            self.dashboard,
            "--working-dir",
            ".",
            "--",
            "python",
            "-m",
            *words,
        ]
        deadline = time.monotonic() + 120
        while True:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=ROOT, timeout=400, check=False, env=environment()
            )
            # The dashboard answers some seconds before the head's job agent does.
            if "No available agent" not in done.stderr or time.monotonic() > deadline:
                return done
            time.sleep(2)


def await_nodes(dashboard: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{dashboard}/api/version", timeout=5):
                return
        except OSError as exc:
            if "401" in str(exc) or "403" in str(exc):  # token authentication: it answers
                return
            time.sleep(0.5)
    raise AssertionError("the dashboard did not answer within 120 s")


@pytest.fixture(scope="module")
def cluster(moto_server: str) -> Iterator[Cluster]:
    """A head with no CPU for work and one node that decodes; both reach the S3 server by the standard AWS
    variables."""
    with tempfile.TemporaryDirectory(
        prefix="r", dir="/tmp", ignore_cleanup_errors=True
    ) as temp:  # sockets need a short path
        port, dashboard_port, metrics_port = free_port(), free_port(), free_port()
        head = (
            "--head",
            "--num-cpus=0",
            f"--port={port}",
            f"--dashboard-port={dashboard_port}",
            "--dashboard-host=127.0.0.1",
        )
        nodes = [start_node(*head, f"--temp-dir={temp}", "--include-dashboard=true")]
        try:
            await_nodes(f"http://127.0.0.1:{dashboard_port}")
            address = f"127.0.0.1:{port}"
            nodes.append(
                start_node(
                    f"--address={address}",
                    "--num-cpus=8",
                    "--labels=pool=decode",
                    f"--metrics-export-port={metrics_port}",
                )
            )
            yield Cluster(
                f"http://127.0.0.1:{dashboard_port}",
                address,
                f"http://127.0.0.1:{metrics_port}/metrics",
                Path(temp),
            )
        finally:
            for node in reversed(nodes):
                os.killpg(node.pid, signal.SIGTERM)
            for node in nodes:
                node.wait(timeout=60)


@pytest.fixture(scope="module")
def root(cluster: Cluster, s3: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An S3 prefix with a drawn catalog."""
    folder = tmp_path_factory.mktemp("catalog")
    draw_catalog(folder, num_pictures=110, seed=2)
    upload(s3, str(folder), "submitted/catalog")
    return f"s3://{BUCKET}/submitted"


def last_line(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The JSON summary in the log that `ray job submit` prints."""
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"job"')]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    loaded: dict[str, Any] = json.loads(lines[-1])
    return loaded


def test_prepare_train_and_score_submitted_to_a_cluster(cluster: Cluster, root: str, s3: Any) -> None:
    training = ["--backbone", "resnet18", "--input-size", "32", "--batch-size", "16", "--epochs", "1"]
    jobs = [
        [
            "jobs.prepare",
            "--catalog",
            f"{root}/catalog",
            "--out",
            f"{root}/dataset",
            "--image-size",
            "64",
            "--val-fraction",
            "0.2",
        ],
        ["jobs.train", "--data", f"{root}/dataset", "--out", f"{root}/model", *training],
        ["jobs.score", "--catalog", f"{root}/catalog", "--model", f"{root}/model", "--out", f"{root}/scores"],
    ]
    for words in jobs:
        done = cluster.submit(*words)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert last_line(done)["job"] == words[0].partition(".")[2]
    run = last_line(done)["run"]
    summary = json.loads(
        s3.get_object(Bucket=BUCKET, Key=f"submitted/scores/runs/{run}/summary.json")["Body"].read()
    )
    assert (summary["snapshot"], summary["failed"]) == (1, 6)
    assert (
        verify(VerifyConfig(scores=f"{root}/scores", catalog=f"{root}/catalog"))["rows"] == summary["scored"]
    )
    assert read_scores(f"{root}/scores").count_rows() == summary["scored"]


def test_counters_are_exported_as_ray_metrics(cluster: Cluster, root: str) -> None:
    deadline = time.monotonic() + 60
    exported = ""
    while 'outcome="NOT_FOUND"' not in exported and time.monotonic() < deadline:
        time.sleep(1)
        with urllib.request.urlopen(cluster.metrics, timeout=10) as answer:
            exported = answer.read().decode()
    assert 'outcome="NOT_FOUND"' in exported
    assert "pix2score_images_total" in exported
    assert "pix2score_forward_seconds_total" in exported


def test_a_failing_job_says_so_by_status_and_summary(
    cluster: Cluster, root: str, s3: Any, tmp_path: Path
) -> None:
    missing = pa.table({"illust_id": list(range(150)), "uri": [f"gone/{i}.png" for i in range(150)]})
    pq.write_table(missing, tmp_path / "catalog.parquet")
    s3.upload_file(str(tmp_path / "catalog.parquet"), BUCKET, "submitted/broken/catalog.parquet")
    done = cluster.submit(
        "jobs.score",
        "--catalog",
        f"{root}/broken",
        "--model",
        f"{root}/model",
        "--out",
        f"{root}/broken-scores",
    )
    assert done.returncode == 1  # all that Ray tells of a failed job
    assert last_line(done)["exit_code"] == 3
    keys = [
        e["Key"]
        for e in s3.list_objects_v2(Bucket=BUCKET, Prefix="submitted/broken-scores/runs/")["Contents"]
    ]
    summary = json.loads(s3.get_object(Bucket=BUCKET, Key=keys[0])["Body"].read())
    assert (summary["error"], summary["exit_code"]) == ("LimitError", 3)
    assert "Contents" not in s3.list_objects_v2(Bucket=BUCKET, Prefix="submitted/broken-scores/snapshots/")


def test_a_node_that_joins_late_decodes_and_the_head_does_not_work(cluster: Cluster, tmp_path: Path) -> None:
    # The driver runs beside the cluster, not as a submitted job: two raylets of one machine share the folder
    # of unpacked
    # working directories, and the second to start clears it.
    catalog = catalog_of(
        40_000, tmp_path / "catalog.parquet", size=500
    )  # decoding takes longer than a node takes to join
    model = cheap_model(tmp_path / "model")
    words = [
        sys.executable,
        "-m",
        "jobs.score",
        "--catalog",
        catalog,
        "--model",
        model,
        "--out",
        str(tmp_path / "scores"),
    ]
    with (tmp_path / "log").open("w") as log:
        driver = subprocess.Popen(
            words, cwd=ROOT, stderr=log, env={**environment(), "RAY_ADDRESS": cluster.address}
        )
        late = None
        try:
            deadline = time.monotonic() + 120
            while not list((tmp_path / "scores").rglob("staged/*/*plan*")) and time.monotonic() < deadline:
                time.sleep(0.2)
            late = start_node(
                f"--address={cluster.address}",
                "--num-cpus=4",
                "--labels=pool=decode",
                '--resources={"late": 1}',
            )
            assert driver.wait(timeout=400) == 0, (tmp_path / "log").read_text()[-3000:]
            nodes = {node["node_id"]: node for node in cluster.listed("nodes", "state=ALIVE")}
            tasks = [
                task
                for task in cluster.listed("tasks")
                if task["node_id"] in nodes and task["type"] != "DRIVER_TASK"
            ]
        finally:
            for process in [driver, *([late] if late else [])]:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM) if process is late else process.kill()
                process.wait(timeout=60)
    done_by = {
        kind: {task["name"] for task in tasks if is_kind(nodes[task["node_id"]])}
        for kind, is_kind in {
            "late": lambda node: "late" in node["resources_total"],
            "head": lambda node: node["is_head_node"],
        }.items()
    }
    assert any("fetch_and_decode" in name for name in done_by["late"]), done_by
    assert not any(
        word in name
        for name in done_by["head"]
        for word in ("fetch_and_decode", "plan", "assemble", "ScoreImages", "merge")
    )


def test_no_secret_stands_in_the_clusters_logs_or_job_metadata(cluster: Cluster) -> None:
    command = [str(BIN / "ray"), "job", "list", "--address", cluster.dashboard]
    listed = subprocess.run(command, capture_output=True, text=True, env=environment(), check=True).stdout
    assert "jobs.score" in listed
    assert SECRET not in listed and TOKEN not in listed
    files = [path for path in cluster.logs.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
