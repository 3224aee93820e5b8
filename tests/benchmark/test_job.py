"""The benchmark job: every stage by its settings, its table and the machine; unknown peers are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pix2score.benchmark import plan as benchmark_plan
from pix2score.benchmark.config import BenchmarkConfig
from pix2score.benchmark.job import benchmark
from pix2score.benchmark.score import OURS, ScoreTiming, score_table
from pix2score.errors import ConfigError


def test_the_job_gives_every_size_and_the_machine(tmp_path: Path) -> None:
    result = benchmark(BenchmarkConfig(stage="plan", rows=(1000, 2000), out=str(tmp_path)))
    assert [timing["rows"] for timing in result["plan"]] == [1000, 2000]
    assert result["machine"]["cores"] >= 1
    assert (tmp_path / "benchmark.json").exists()
    assert benchmark_plan.FILE_ROWS == 250_000


def test_an_unknown_peer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match="peer spark is not known; one of ray-recipe, dataloader, daft, limit"
    ):
        BenchmarkConfig(peers="spark,limit")


def test_the_table_says_how_many_times_as_fast_ours_is() -> None:
    ours = ScoreTiming(OURS, 100, 10.0, 9.0, 11.0, 5.0, 20.0)
    other = ScoreTiming("daft", 100, 25.0, 24.0, 26.0, 5.0, 5.0)
    table = score_table([ours, other], {"forward_per_s": 50.0, "decode_per_s": 40.0, "both_per_s": 22.2})
    assert "2.50x" in table
    assert "90%" in table
