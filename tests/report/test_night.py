"""One pass over a night gathers counts, extremes and a sample."""

from __future__ import annotations

import pyarrow as pa

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
