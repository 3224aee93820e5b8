"""One pass over a night gathers counts, extremes and a sample."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import spearmanr

from pix2score.report import night as module
from pix2score.report.night import NUM_RANDOM, NightStats
from pix2score.snapshots.tables import OK
from tests.support.builders import HEADS, Key, scores_table

KEYS: list[Key] = [(number, 0) for number in range(200)]


def test_a_night_gathers_the_same_whatever_the_batches() -> None:
    table = scores_table(KEYS, "run", failed=KEYS[:7])
    score = pa.array([None if i < 7 else (i * 37 % 200) / 200 for i in range(200)], pa.float32())
    table = table.set_column(table.column_names.index("bookmark_score"), "bookmark_score", score)
    for size in (200, 33):
        night = NightStats(HEADS, "run")
        for batch in table.to_batches(max_chunksize=size):
            night.add(batch)
        assert night.rows == 200
        assert night.failed == {"NOT_FOUND": 7}
        assert len(night.failures["NOT_FOUND"]) == module.NUM_FAILED
        assert night.bins["bookmark"].tolist() == [64, 65, 64]
        assert night.fresh["bookmark"].tolist() == [64, 65, 64]
        best = [row["bookmark_score"] for row in night.extremes["bookmark", "highest"]]
        worst = [row["bookmark_score"] for row in night.extremes["bookmark", "lowest"]]
        assert best == sorted(score.drop_null().to_pylist(), reverse=True)[:6]
        assert worst == sorted(score.drop_null().to_pylist())[:6]
        assert len({row["illust_id"] for row in night.drawn}) == NUM_RANDOM
        assert all(row["status"] == OK for row in night.drawn)


def test_scores_of_a_random_sample_are_ranked_against_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[Key] = [(number, 0) for number in range(3000)]
    table, rng = scores_table(keys, "run", failed=keys[:50]), np.random.default_rng(0)
    one = np.linspace(0, 1, 3000)  # rows are sorted: the first ones would be no sample
    scores = {"bookmark_score": one, "sanity_score": (one + rng.normal(size=3000)) / 2}
    for name, values in scores.items():
        column = pa.array(values.astype(np.float32), mask=np.arange(3000) < 50)
        table = table.set_column(table.column_names.index(name), name, column)
    wanted = spearmanr(*(values[50:] for values in scores.values())).statistic
    for most, error in ((10_000, 1e-3), (600, 0.1)):
        monkeypatch.setattr(module, "NUM_RANKED", most)
        night = NightStats(HEADS, "run")
        for batch in table.to_batches(max_chunksize=250):
            night.add(batch)
        found = night.correlations()
        assert found is not None
        assert found.heads == ("bookmark", "sanity")
        assert found.answers.num_rows[0][1] == min(most, 2950)
        assert found.answers.spearman[0][1] == pytest.approx(wanted, abs=error)
        assert night.scores is not None
        assert np.quantile(night.scores[:, 1], [0.25, 0.75]) == pytest.approx([0.25, 0.75], abs=0.08)


def test_a_night_without_rows_or_with_one_head_has_no_correlations() -> None:
    night = NightStats(HEADS, "run")
    assert night.correlations() is None
    alone = NightStats(HEADS[:1], "run")
    for batch in scores_table(KEYS, "run").to_batches():
        alone.add(batch)
    assert alone.correlations() is None
