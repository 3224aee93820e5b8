"""Which keys a task of ``verify`` compares: those whose hash is in its ranges, and no other."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.snapshots.dead import hashes_of
from pix2score.snapshots.verify_keys import _are_within, _bounds, _meets, _of_bounds

IDS = pa.table({"illust_id": range(500), "page": pa.array([0] * 500, pa.int32())})
HASHES = [int(one) for one in hashes_of(IDS)]


@settings(max_examples=50)
@given(st.integers(1, 60), st.data())
def test_the_keys_of_some_ranges_are_those_whose_sums_are_of_them(number: int, data: st.DataObject) -> None:
    ranges = sorted(data.draw(st.sets(st.integers(0, number - 1), min_size=1)))
    bounds = _bounds(ranges, number)
    wanted = [id_ for id_, hash_ in enumerate(HASHES) if hash_ * number // 2**64 in ranges]
    assert _of_bounds(IDS, bounds)["illust_id"].to_pylist() == wanted
    assert [id_ for id_, hash_ in enumerate(HASHES) if _meets(hash_, hash_, bounds)] == wanted
    assert all(one[1] + 1 < other[0] for one, other in zip(bounds, bounds[1:], strict=False))


EDGES = [2**61 * part + step for part in range(9) for step in (-1, 0, 1) if 0 <= 2**61 * part + step < 2**64]
EDGE_HASHES = st.one_of(st.sampled_from(EDGES), st.integers(0, 2**64 - 1))


@given(st.lists(EDGE_HASHES, min_size=2, max_size=2).map(sorted))
def test_a_file_is_read_if_its_hashes_may_be_in_a_range(hashes: list[int]) -> None:
    bounds = _bounds([1, 2, 6], 8)
    first, last = hashes
    assert _meets(first, last, bounds) == any(first <= high and last >= low for low, high in bounds)
    wanted = [any(low <= one <= high for low, high in bounds) for one in hashes]
    assert _are_within(np.array(hashes, np.uint64), bounds).tolist() == wanted
