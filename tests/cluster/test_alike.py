"""Workers that are not like the driver: nodes in another environment, there at the start or joining late."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score import read_scores
from pix2score.cluster.alike import ALLOW, Expected, check_worker, expected
from pix2score.cluster.session import session
from pix2score.errors import VersionSkewError
from pix2score.host.environment import environment
from tests.support.drivers import Ray, ray_cluster, started_node
from tests.support.models import catalog_of, save_settled
from tests.support.nodes import environment as node_environment
from tests.support.nodes import with_distribution
from tests.support.paths import ROOT

OTHER = "11.0.0"
WHAT = f"has Pillow {OTHER}, the driver {version('pillow')}"
ON_A_LATE_NODE = """
import sys, time, ray
from pix2score.cluster.session import session
from pix2score.cluster.source import ParquetParts
from pix2score.errors import VersionSkewError
from pix2score.storage.folder import Folder
from pix2score.storage.parts import Part

with session():
    print("began", flush=True)
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        time.sleep(0.1)
    rows = ray.data.read_datasource(
        ParquetParts(Folder(sys.argv[1]), [Part("rows.parquet", 1)]), label_selector={"pool": "late"}
    )
    try:
        rows.materialize()
    except VersionSkewError as error:
        print(error, flush=True)
"""


@pytest.mark.usefixtures("ray_session")
def test_a_worker_with_other_versions_is_refused_by_name() -> None:
    Expected(environment(), only_warns=False).check()
    other = Expected({**environment(), "torch": "1.0"}, only_warns=False)
    with pytest.raises(
        VersionSkewError, match=rf"has torch {environment()['torch']}, the driver 1\.0: .*{ALLOW}"
    ):
        check_worker(other)
    Expected(other.versions, only_warns=True).check()


@pytest.mark.usefixtures("ray_session")
def test_on_a_ray_of_its_own_nothing_is_asked() -> None:
    with session():
        assert expected() is None
    check_worker()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Ray]:
    """One node like the driver."""
    with ray_cluster({}) as started:
        yield started


@pytest.fixture(scope="module")
def said_of_late_node(cluster: Ray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a run was told that began before the node with another Pillow joined; the node is there after."""
    folder = tmp_path_factory.mktemp("late")
    pq.write_table(pa.table({"id": [1]}), folder / "rows.parquet")
    driver = subprocess.Popen(
        [sys.executable, "-c", ON_A_LATE_NODE, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**node_environment(), "RAY_ADDRESS": cluster.address},
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "began\n"  # the nodes that were there are like it
    paths = f"{with_distribution(folder, 'pillow', OTHER)}{os.pathsep}{ROOT}"
    flags = (f"--address={cluster.address}", "--num-cpus=2", "--labels=pool=late")
    with started_node(*flags, settings={"PYTHONPATH": paths}):
        said, _ = driver.communicate(timeout=120)
        yield said


@pytest.mark.slow
def test_a_node_that_joins_late_fails_by_its_workers(said_of_late_node: str) -> None:
    assert WHAT in said_of_late_node


@pytest.mark.slow
@pytest.mark.usefixtures("said_of_late_node")
def test_a_node_in_another_environment_ends_a_run_before_anything_is_written(
    cluster: Ray, tmp_path: Path
) -> None:
    catalog = catalog_of(40, tmp_path / "catalog.parquet")
    flags = (
        f"--catalog={catalog}",
        f"--model={save_settled(tmp_path / 'model')}",
        f"--out={tmp_path / 'scores'}",
    )
    job = cluster.start("score", *flags)
    assert job.wait() == 2
    assert job.summary["error"] == "VersionSkewError"
    assert WHAT in job.log
    assert job.log.count("\n") < 8
    assert not (tmp_path / "scores").exists()
    allowed = cluster.start("score", *flags, **{ALLOW: "1"})
    assert allowed.done()["scored"] == 40
    assert f"{WHAT}: let pass by {ALLOW}" in allowed.log
    assert read_scores(str(tmp_path / "scores")).count_rows() == 40
