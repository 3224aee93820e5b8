"""Jobs as functions in somebody else's process: a notebook, a scheduler's thread, a Ray that was there
before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pix2score import read_scores
from tests.support.models import catalog_of, save_settled
from tests.support.paths import ROOT

pytestmark = pytest.mark.starts_ray
NUM_ROWS = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a catalog and a model."""
    folder = tmp_path_factory.mktemp("python")
    catalog_of(NUM_ROWS, folder / "catalog.parquet")
    save_settled(folder / "model")
    return folder


def seen(case: str, place: Path) -> dict[str, Any]:
    """What the case of ``tests.support.from_python`` saw."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.from_python", case, str(place)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_error_comes_out_and_leaves_the_process_as_it_was(place: Path) -> None:
    found = seen("after_an_error", place)
    assert found["error"].startswith("--device gpu, but this cluster has 1 node")
    assert found["changes"] == {}


@pytest.mark.slow
def test_nights_in_two_threads_share_a_ray_that_ends_with_the_last(place: Path) -> None:
    found = seen("in_threads", place)
    assert found == {"scored": [NUM_ROWS, NUM_ROWS], "to_score": NUM_ROWS, "changes": {}}
    assert read_scores(str(place / "two")).count_rows() == NUM_ROWS


@pytest.mark.slow
def test_a_night_runs_inside_an_event_loop_and_beside_it(place: Path) -> None:
    assert seen("in_a_loop", place) == {"found": [NUM_ROWS, NUM_ROWS, 1, 1], "changes": {}}


@pytest.mark.slow
def test_a_ray_that_was_there_is_used_and_goes_on(place: Path, tmp_path: Path) -> None:
    for name in ("catalog.parquet", "model"):
        (tmp_path / name).symlink_to(place / name)
    assert seen("on_a_ray_of_its_own", tmp_path) == {"scored": NUM_ROWS, "changes": {}, "ray": "at work"}


@pytest.mark.slow
def test_the_example_for_schedulers_runs_a_night(place: Path, tmp_path: Path) -> None:
    words = [str(place / "catalog.parquet"), str(place / "model"), str(tmp_path / "scores")]
    done = subprocess.run(
        [sys.executable, "jobs/examples/nightly.py", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=200,
        check=True,
    )
    assert done.stdout == f"snapshot 1: {NUM_ROWS} planned, 0 carried over\n"
