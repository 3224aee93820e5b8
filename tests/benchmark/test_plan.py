"""Planning and rewriting are timed on real nights: what they publish is sound."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from pyarrow.dataset import dataset

from pix2score import read_scores
from pix2score.benchmark import plan as benchmark_plan
from pix2score.benchmark.plan import time_plan
from pix2score.snapshots.manifest import live


def test_one_percent_changed_and_one_per_mille_new_and_removed(tmp_path: Path) -> None:
    timing = time_plan(tmp_path, 20_000)
    assert (timing.rows, timing.to_score) == (20_000, 220)
    manifest = live(str(tmp_path / "scores")).manifest
    plan = manifest["plan"]
    assert (manifest["snapshot"], plan["removed"], plan["new"], plan["changed"]) == (2, 20, 20, 200)
    ids = read_scores(str(tmp_path / "scores")).to_table(columns=["illust_id"]).column(0).to_pylist()
    assert ids == sorted(set(ids))
    assert len(ids[0]) == 24
    assert timing.plan_peak_mib > 10


def test_a_first_night_is_timed_beside_the_later_one_with_its_temporary_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_plan, "FILE_ROWS", 8_000)
    before = tempfile.gettempdir()
    timing = time_plan(tmp_path, 20_000)
    steps = (timing.plan, timing.rewrite, timing.first.plan, timing.first.sort, timing.first.merge)
    assert all(step.seconds > 0 and step.cpu_s > 0 and step.peak_mib > 10 for step in steps)
    assert (timing.plan.seconds, timing.rewrite.peak_mib) == (timing.plan_s, timing.rewrite_peak_mib)
    assert timing.plan.disk_bytes_per_row > 0 and timing.first.plan.disk_bytes_per_row > 0
    files = [str(path) for path in (tmp_path / "first" / "scores").rglob("*.parquet")]
    assert dataset(files).count_rows() == 20_000
    assert tempfile.gettempdir() == before
