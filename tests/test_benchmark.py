"""The plan benchmark measures a real night: what it publishes is sound, and it counts what changed."""

from __future__ import annotations

from pathlib import Path

from pix2score import benchmark_plan, read_scores
from pix2score.benchmark import BenchmarkConfig, benchmark
from pix2score.benchmark_plan import time_plan
from pix2score.snapshot import live


def test_one_percent_changed_and_one_per_mille_new_and_gone(tmp_path: Path) -> None:
    timing = time_plan(tmp_path, 20_000)
    assert (timing.rows, timing.to_score) == (20_000, 220)
    manifest = live(str(tmp_path / "scores")).manifest
    assert (manifest["snapshot"], manifest["plan"]["removed"], manifest["plan"]["new"], manifest["plan"]["changed"]) == (
        2,
        20,
        20,
        200,
    )
    ids = read_scores(str(tmp_path / "scores")).to_table(columns=["illust_id"]).column(0).to_pylist()
    assert ids == sorted(set(ids))
    assert len(ids[0]) == 24
    assert timing.plan_peak_mib > 10


def test_the_job_gives_every_size_and_the_machine(tmp_path: Path) -> None:
    result = benchmark(BenchmarkConfig(rows=(1000, 2000), out=str(tmp_path)))
    assert [timing["rows"] for timing in result["timings"]] == [1000, 2000]
    assert result["machine"]["cores"] >= 1
    assert (tmp_path / "benchmark.json").exists()
    assert benchmark_plan.FILE_ROWS == 250_000
