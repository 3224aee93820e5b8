"""A night of tags: counted by tag over the whole vocabulary, told by the most frequent, without extremes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pix2score.heads.tags import NUM_SHOWN, TagsHead
from pix2score.report.drift import drifts
from pix2score.report.night import NightStats
from pix2score.report.night_page import night_page
from pix2score.snapshots.drift import psi
from pix2score.snapshots.snapshot import Snapshot

NAMES = tuple(f"t{i}" for i in range(NUM_SHOWN + 20))
HEAD = TagsHead(name="tag", column="tags", tags=NAMES, counts=(9,) * len(NAMES), num_tagged=99)


def night(tags: list[list[str]], run: str = "now", old: int = 0) -> NightStats:
    """Statistics of a night; the first ``old`` rows are of an earlier run."""
    probs = [list(np.linspace(0.9, 0.5, len(row))) for row in tags]
    rows = pa.table(
        {
            "illust_id": list(range(len(tags))),
            "page": [0] * len(tags),
            "status": ["ok"] * len(tags),
            "error_code": pa.array([None] * len(tags), pa.string()),
            "run": ["earlier"] * old + [run] * (len(tags) - old),
            "tag_tags": pa.array(tags, pa.list_(pa.string())),
            "tag_probs": pa.array(probs, pa.list_(pa.float32())),
        }
    )
    found = NightStats((HEAD,), run)
    for batch in rows.to_batches(max_chunksize=7):
        found.add(batch)
    return found


BEFORE = night([["t0", "t1"]] * 30 + [["t45"]] * 10)
NOW = night([["t0"]] * 20 + [["t1", "t49"]] * 20 + [[]] * 5, old=20)


def test_tags_are_counted_over_all_rows_and_have_no_highest_or_lowest() -> None:
    assert NOW.bins["tag"][[0, 1, 49]].tolist() == [20, 20, 20]
    assert NOW.fresh["tag"][[0, 1, 49]].tolist() == [0, 20, 20]
    assert NOW.rows == 45
    assert not NOW.extremes


def test_drift_is_that_of_the_most_frequent_tags_and_of_all_others_together() -> None:
    found = drifts(NOW, BEFORE)["tag"]
    now, before = ([20, 20, *[0] * (NUM_SHOWN - 2), 20], [30, 30, *[0] * (NUM_SHOWN - 2), 10])
    assert found.whole == pytest.approx(psi(np.array(now), np.array(before)), abs=1e-4)
    assert found.fresh is None  # 40 tags say nothing


def test_the_page_names_new_and_vanished_tags() -> None:
    content = {"run": "now", "model_version": "x", "parent": 1, "counts": {}}
    page = night_page(Snapshot(2, content), NOW, BEFORE, drifts(NOW, BEFORE), {}).decode()
    assert "tag, new tags: t49 (20)." in page
    assert "tag, vanished tags: t45 (10)." in page
    assert "t1 33.3% (before 42.9%)" in page
    assert "Highest score" not in page
    assert "t1 0.90, t49 0.50" in page
