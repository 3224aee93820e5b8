"""The distance of two tables' answers: PSI, the heads that compare, histograms of whatever files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.heads.binary import BinaryHead
from pix2score.heads.ordered import OrderedHead
from pix2score.snapshots.drift import answer_histograms, comparable, psi
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes
from tests.support.builders import HEADS, Key, scores_table

counts = st.lists(st.integers(0, 10_000), min_size=3, max_size=3)


@given(counts, counts)
@settings(max_examples=100)
def test_psi_is_zero_for_equal_shares_and_positive_otherwise(now: list[int], before: list[int]) -> None:
    a, b = np.array(now), np.array(before)
    assert psi(a, b) >= 0
    assert psi(a, b) == pytest.approx(psi(b, a))
    assert psi(a, a) == 0
    assert psi(100 * a + 1000, 200 * a + 2000) == pytest.approx(0, abs=1e-9)


def test_psi_of_a_known_move() -> None:
    assert psi(np.array([50, 50]), np.array([25, 75])) == pytest.approx(
        0.25 * np.log(2) - 0.25 * np.log(50 / 75)
    )


def test_heads_compare_by_name_and_kind_whatever_their_edges() -> None:
    finer = OrderedHead(name="bookmark", column="bookmarks", edges=(5, 10, 30, 100))
    other = (finer, BinaryHead(name="sanity", column="safe"))
    assert comparable(other, HEADS) == [finer]
    assert comparable(HEADS, other) == [HEADS[0]]
    assert comparable(HEADS, ()) == []


def test_histograms_count_answers_alone_and_add_up_over_files(tmp_path: Path) -> None:
    keys: list[Key] = [(number, 0) for number in range(50)]
    folder = Folder(str(tmp_path))
    folder.publish("a.parquet", parquet_bytes(scores_table(keys, "run", failed=keys[:7])))
    folder.publish("b.parquet", parquet_bytes(scores_table(keys[:0], "run")))
    folder.publish("c.parquet", parquet_bytes(scores_table(keys[:20], "run")))
    for paths, number in (
        (["a.parquet"], 43),
        (["b.parquet"], 0),
        (["b.parquet", "a.parquet", "c.parquet"], 63),
    ):
        found = answer_histograms(folder, paths, HEADS)
        assert {name: int(histogram.sum()) for name, histogram in found.items()} == {
            "bookmark": number,
            "sanity": number,
        }
