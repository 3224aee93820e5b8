"""Bins: the laws of edges learnt from data, and exactness for counts that no float can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from pix2score.errors import DataError
from pix2score.heads import bins
from pix2score.heads.presets import preset

INT64 = st.integers(-(2**63), 2**63 - 1)
TIED = st.lists(st.integers(0, 12), min_size=2, max_size=200)
NUM_BINS = st.integers(2, 15)
EDGES = st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20, unique=True).map(sorted)
ValueCounts = Callable[[], bins.ValueCounts]


def counted(values: Sequence[float], batch_size: int = 1_000_000, dtype: type = np.int64) -> ValueCounts:
    """Distinct values with counts, in ascending batches of ``batch_size``, as often as asked for."""
    distinct, counts = np.unique(np.asarray(values, dtype=dtype), return_counts=True)

    def batches() -> Iterator[tuple[bins.Values, np.ndarray]]:
        for start in range(0, len(distinct), batch_size):
            yield distinct[start : start + batch_size], counts[start : start + batch_size]

    return batches


@given(values=st.lists(INT64, min_size=1), edges=EDGES)
def test_a_bin_is_what_numpy_digitize_says(values: list[int], edges: list[int]) -> None:
    array = np.asarray(values, dtype=np.int64)
    found = bins.digitize(array, edges)
    assert found.dtype == np.int16
    assert found.tolist() == np.digitize(array, np.asarray(edges, dtype=np.int64)).tolist()


@given(edges=EDGES)
def test_bins_are_left_inclusive(edges: list[int]) -> None:
    at = np.asarray(edges, dtype=np.int64)
    assert bins.digitize(at, edges).tolist() == list(range(1, len(edges) + 1))
    assert bins.digitize(at - 1, edges)[0] == 0


@pytest.mark.parametrize("base", [2**31, 2**53, 2**62])
def test_counts_beyond_int32_and_beyond_float_precision_are_compared_exactly(base: int) -> None:
    values = np.array([base - 1, base, base + 1, base + 2])
    assert bins.digitize(values, [base, base + 1]).tolist() == [0, 1, 2, 2]


def test_learnt_edges_beyond_float_precision_are_exact() -> None:
    values = [2**53 + i for i in range(6)]
    edges = bins.learn_edges(counted(values), 3)
    assert edges == [2**53 + 2, 2**53 + 4]
    assert bins.count_bins(counted(values)(), edges) == [2, 2, 2]


@given(values=TIED, num_bins=NUM_BINS)
def test_learnt_edges_rise_strictly_and_leave_no_bin_empty(values: list[int], num_bins: int) -> None:
    assume(len(set(values)) > 1)
    edges = bins.learn_edges(counted(values), num_bins)
    assert all(a < b for a, b in zip(edges, edges[1:], strict=False))
    assert 1 <= len(edges) <= num_bins - 1
    assert min(bins.count_bins(counted(values)(), edges)) > 0
    assert set(edges) <= set(values)


@given(values=st.lists(INT64, min_size=2, max_size=300, unique=True), num_bins=NUM_BINS)
def test_without_ties_every_bin_is_within_one_of_an_equal_share(values: list[int], num_bins: int) -> None:
    assume(len(values) >= num_bins)
    counts = bins.count_bins(counted(values)(), bins.learn_edges(counted(values), num_bins))
    assert len(counts) == num_bins
    assert all(abs(count - len(values) / num_bins) < 1 for count in counts)


@given(values=TIED, num_bins=NUM_BINS, batch_size=st.integers(1, 13))
@example(values=[0, 1, 1, 2], num_bins=2, batch_size=1)
def test_how_the_values_are_batched_does_not_matter(
    values: list[int], num_bins: int, batch_size: int
) -> None:
    assume(len(set(values)) > 1)
    whole, cut = counted(values), counted(values, batch_size)
    edges = bins.learn_edges(whole, num_bins)
    counts = bins.count_bins(whole(), edges)
    assert bins.learn_edges(cut, num_bins) == edges
    assert bins.count_bins(cut(), edges) == counts
    assert bins.typical_values(cut(), edges, counts, 0.0) == bins.typical_values(whole(), edges, counts, 0.0)


def test_ties_merge_bins() -> None:
    assert bins.learn_edges(counted([0] * 97 + [1, 2, 3]), 10) == [1]


def test_fractions_are_binned_too() -> None:
    edges = bins.learn_edges(counted([0.25, 0.5, 0.75, 1.0], dtype=np.float64), 2)
    assert edges == [0.75]


@pytest.mark.parametrize("values", [[], [7], [7] * 50])
def test_fewer_than_two_distinct_values_are_refused_by_the_name_of_the_head(values: list[int]) -> None:
    with pytest.raises(DataError, match=r"head 'bookmark'.*two distinct values"):
        bins.learn_edges(counted(values), 5, head="bookmark")


@given(
    values=st.lists(st.integers(-50, 50)),
    edges=st.lists(st.integers(-50, 50), min_size=1, unique=True).map(sorted),
)
def test_every_row_is_counted_in_one_bin(values: list[int], edges: list[int]) -> None:
    counts = bins.count_bins(counted(values)(), edges)
    assert sum(counts) == len(values)
    assert (
        counts
        == np.bincount(
            np.digitize(np.asarray(values, dtype=np.int64), edges), minlength=len(edges) + 1
        ).tolist()
    )


@given(
    values=TIED,
    edges=st.lists(st.integers(1, 12), min_size=1, unique=True).map(sorted),
    batch_size=st.integers(1, 13),
)
def test_the_typical_value_of_a_bin_is_its_lower_median(
    values: list[int], edges: list[int], batch_size: int
) -> None:
    source = counted(values, batch_size)
    counts = bins.count_bins(source(), edges)
    typical = bins.typical_values(source(), edges, counts, 0.0)
    inside = [sorted(v for v in values if np.digitize(v, edges) == k) for k in range(len(counts))]
    assert [t for t, c in zip(typical, counts, strict=True) if c] == [
        vs[(len(vs) - 1) // 2] for vs in inside if vs
    ]


def test_the_typical_value_of_an_empty_bin_is_its_midpoint_or_the_edge_of_an_open_one() -> None:
    source, edges = counted([15]), [10, 20, 40]
    counts = bins.count_bins(source(), edges)
    assert bins.typical_values(source(), edges, counts, 0.0) == [5.0, 15.0, 30.0, 40.0]
    assert bins.typical_values(source(), edges, counts, float("-inf"))[0] == 10.0


def test_the_labels_of_the_pixiv_preset_read_as_the_reference_prints_them() -> None:
    bookmark, view, sanity = (head.legend() for head in preset("pixiv"))
    assert list(bookmark.values()) == (
        [
            "0-10",
            "10-30",
            "30-50",
            "50-70",
            "70-100",
            "100-130",
            "130-170",
            "170-220",
            "220-300",
            "300-400",
            "400-550",
            "550-800",
            "800-1300",
            "1300-2700",
            "2700-∞",
        ]
    )
    assert list(bookmark) == [str(k) for k in range(15)]
    assert (view["0"], view["14"]) == ("0-500", "35000-∞")
    assert sanity == {"0": "0-2", "1": "2-4", "2": "4-6", "3": "6-7", "4": "7-∞"}


def test_labels_of_fractions_and_of_open_ends_are_readable() -> None:
    assert bins.labels([-0.5, 0.25], float("-inf")) == {"0": "-∞--0.5", "1": "-0.5-0.25", "2": "0.25-∞"}


@given(counts=st.lists(st.integers(0, 10**12), min_size=2, max_size=20))
def test_mid_ranks_rise_within_zero_and_one(counts: list[int]) -> None:
    assume(sum(counts) > 0)
    ranks = bins.mid_ranks(counts)
    assert ranks.min() >= 0
    assert ranks.max() <= 1 + 1e-12
    assert (np.diff(ranks) >= 0).all()


def test_mid_ranks_are_the_mean_rank_within_each_bin() -> None:
    assert bins.mid_ranks([1, 2, 1]).tolist() == [0.125, 0.5, 0.875]
    assert (np.diff(bins.mid_ranks([3, 1, 5])) > 0).all()
