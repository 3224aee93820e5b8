"""Private names that are missing are left out, and all of them under one switch, with the same results."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import ray

from pix2score.cluster.ray_patches.auth import ask_head, has_token
from pix2score.cluster.ray_patches.bundles import block_refs, block_slices, bundles_of
from pix2score.cluster.ray_patches.data_actors import without_side_actors
from pix2score.cluster.ray_patches.local_start import python_signals, quick_node
from pix2score.cluster.ray_patches.lookup import asked, is_plain, replaced
from pix2score.cluster.ray_patches.names import SETTINGS
from pix2score.cluster.ray_patches.services import is_preemption_near, metric, request_gpus
from pix2score.demo.catalog import draw_catalog
from pix2score.errors import ConfigError
from pix2score.snapshots.read import read_embeddings, read_scores
from tests.support.models import cheap_model

GET_NODE = "ray._private.services:get_node"
FALSE_PATCH = {"ray._private.services:get_node": None}


def test_a_name_has_the_other_value_inside_the_block_only() -> None:
    from ray._private import services

    before = services.get_node
    with replaced(FALSE_PATCH):
        assert services.get_node is None
    assert services.get_node is before


def test_a_name_that_is_not_listed_is_refused() -> None:
    with pytest.raises(AssertionError, match="get_nothing is not in"):
        asked("ray._private.services:get_nothing")
    with pytest.raises(AssertionError, match="get_nothing is not in"), replaced({"ray.x:get_nothing": None}):
        pass


def test_a_name_that_ray_lacks_is_left_out_with_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from ray._private import services

    monkeypatch.delattr(services, "get_node")
    caplog.set_level(logging.DEBUG)
    with replaced(FALSE_PATCH):
        assert not hasattr(services, "get_node")
    assert asked(GET_NODE) is None
    assert [r.getMessage() for r in caplog.records if GET_NODE in r.getMessage()] == [
        f"Ray {ray.__version__} has no {GET_NODE}: left as it is",
        f"Ray {ray.__version__} has no {GET_NODE}: done without",
    ]


def test_modules_that_ray_lacks_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("ray.train.get_preemption_info")
    for module in (
        "ray._raylet",
        "ray._private.node",
        "ray._private.ray_constants",
        "ray.data._internal.cluster_autoscaler",
        "ray.data._internal.execution.streaming_executor",
        "ray.data._internal.stats",
        "ray.util.metrics",
        "ray.autoscaler.sdk",
    ):
        monkeypatch.setitem(sys.modules, module, None)  # importing it raises ImportError
    with without_side_actors(), quick_node(), python_signals():
        assert metric("Counter", "name", "what", ()) is metric("Gauge", "name", "what", ()) is None
        request_gpus(1)
        ask_head("10.0.0.1:6379")
        assert not has_token()
        assert not is_preemption_near()


def test_without_bundles_one_line_says_which_ray_lacks_them() -> None:
    words = f"Ray {ray.__version__} has no Dataset.iter_internal_ref_bundles, which staging needs"
    with pytest.raises(ConfigError, match=words):
        bundles_of(object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"has no RefBundle.block_refs"):
        block_refs(object())
    with pytest.raises(ConfigError, match=r"has no RefBundle.slices"):
        block_slices(object())


@pytest.mark.parametrize(("value", "answer"), [("1", True), ("0", False), ("", False)])
def test_the_switch(monkeypatch: pytest.MonkeyPatch, value: str, answer: bool) -> None:
    monkeypatch.setenv("PIX2SCORE_PLAIN_RAY", value)
    assert is_plain() is answer


SWITCHED = """
import os
from ray._private import ray_constants, services
from ray._private.node import Node
from ray.data._internal.execution import streaming_executor
from pix2score.cluster.ray_patches.data_actors import without_side_actors
from pix2score.cluster.ray_patches.local_start import process_settings, python_signals, quick_node

def now():
    return [
        Node.start_monitor,
        services.get_node,
        ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER,
        streaming_executor.create_cluster_autoscaler,
        {name: os.environ.get(name) for name in SETTINGS},
    ]

before = now()
with quick_node(), python_signals(), without_side_actors(), process_settings(6):
    assert all(one is not other for one, other in zip(now(), before, strict=True))
assert now() == before
os.environ["PIX2SCORE_PLAIN_RAY"] = "1"
with quick_node(), python_signals(), without_side_actors(), process_settings(6):
    assert now() == before
"""


def test_under_the_switch_ray_and_the_environment_stay_as_they_are() -> None:
    # In a process of its own: the tests' Ray, where it is in this one, has patched them already.
    code = f"SETTINGS = {SETTINGS!r}\n{SWITCHED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


SCORE = """
import json, os, sys
from pix2score.score.config import ScoreConfig
from pix2score.score.job import score
before = dict(os.environ)
score(ScoreConfig(catalog=sys.argv[1], model=sys.argv[2], out=sys.argv[3], max_failed=1))
print(json.dumps({k: v for k, v in os.environ.items() if before.get(k) != v}))
"""
NUM_PICTURES = 12


def scored_under(switch: str, root: Path) -> dict[str, str]:
    """Score in a process of its own; return what its environment has more afterwards."""
    places = [str(root / name) for name in ("catalog", "model", f"scores{switch}")]
    done = subprocess.run(
        [sys.executable, "-c", SCORE, *places],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PIX2SCORE_PLAIN_RAY": switch},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def rows_of(scores: Path) -> tuple[pa.Table, pa.Table]:
    """Both tables without what names the run, in key order."""
    embeddings = read_embeddings(str(scores)).to_table().drop_columns(["run"])
    order = pc.sort_indices(embeddings, [("illust_id", "ascending"), ("page", "ascending")])
    return read_scores(str(scores)).to_table().drop_columns(
        ["run", "embedding_run", "scored_at"]
    ), embeddings.take(order)


@pytest.mark.slow
@pytest.mark.timeout(280)
def test_a_run_on_plain_ray_has_the_same_rows_and_leaves_the_same_environment(tmp_path: Path) -> None:
    (tmp_path / "catalog").mkdir()
    draw_catalog(tmp_path / "catalog", num_pictures=NUM_PICTURES, seed=5)
    cheap_model(tmp_path / "model")
    left = {switch: scored_under(switch, tmp_path) for switch in "01"}
    patched, plain = (rows_of(tmp_path / f"scores{switch}") for switch in "01")
    assert patched[0].num_rows >= NUM_PICTURES
    assert patched[0].equals(plain[0])
    assert patched[1].equals(plain[1])
    assert left["1"].keys() <= left["0"].keys()
