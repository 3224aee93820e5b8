"""Which range a key lies in, where ranges are cut, and rows dealt out by range."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.catalog.keys import Key, key_fields
from pix2score.nightly.bounds import Bounds, chosen_bounds, deal, overlapping, within
from pix2score.nightly.cuts import planned_cuts
from pix2score.snapshots.tables import DataFile
from pix2score.storage.folder import Folder
from pix2score.storage.slices import read_slice, read_slices

TEXTS = st.text(st.sampled_from("\0a'Zé\U0010ffff"), max_size=4)
NUMBERS = st.sampled_from([-(2**63), -1, 0, 1, 2**53 + 1, 2**63 - 1])
PAGES = st.sampled_from([-(2**31), -1, 0, 1, 2**31 - 1])


def keys_of(ids: st.SearchStrategy) -> st.SearchStrategy:
    return st.lists(st.tuples(ids, PAGES), max_size=12)


def table(keys: list[Key]) -> pa.Table:
    kind = pa.string() if keys and isinstance(keys[0][0], str) else pa.int64()
    columns = [[key[0] for key in keys], [key[1] for key in keys]]
    return pa.table(columns, schema=pa.schema(key_fields(kind)))


@settings(max_examples=60)
@given(st.one_of(st.tuples(keys_of(TEXTS), keys_of(TEXTS)), st.tuples(keys_of(NUMBERS), keys_of(NUMBERS))))
def test_a_key_lies_behind_as_many_bounds_as_are_not_greater(both: tuple[list[Key], list[Key]]) -> None:
    cuts, keys = sorted(set(both[0])), both[1]
    bounds = Bounds(tuple(cuts))
    rows = table([*keys, *cuts])
    if not rows.num_rows:
        return
    expected = [sum(cut <= key for cut in cuts) for key in [*keys, *cuts]]
    assert bounds.of_rows(rows).tolist() == expected
    for number in range(bounds.number):
        inside = within(rows, bounds.low(number), bounds.high(number))
        assert inside.num_rows == expected.count(number)


def test_rows_are_dealt_out_by_range_and_each_slice_is_read_alone(place: str) -> None:
    folder, schema = Folder(place), pa.schema([*key_fields(pa.int64()), pa.field("name", pa.string())])
    rows = pa.table([[5, 1, 9, 3, 5, 7], [0, 0, 0, 0, 1, 0], list("abcdef")], schema=schema)
    bounds = Bounds(((3, 0), (5, 1), (6, 0)))
    dealt = deal(folder, "staged/x/dealt", schema, [rows.slice(0, 4), rows.slice(4)], bounds)
    assert dealt is not None
    assert dealt.rows.tolist() == [1, 2, 1, 2]
    names = [[*read_slice(folder, [dealt], n)][0].column("name").to_pylist() for n in range(4)]
    assert names == [["b"], ["a", "d"], ["e"], ["c", "f"]]
    assert read_slices(folder, dealt, 1, 3).column("name").to_pylist() == ["a", "d", "e"]
    assert read_slices(folder, dealt, 2, 2).num_rows == 0
    assert deal(folder, "staged/x/dealt", schema, [], bounds) is None
    assert deal(folder, "staged/x/dealt", schema, [rows.slice(0, 0)], bounds) is None


def test_rows_without_an_id_are_in_no_range(tmp_path: Path) -> None:
    schema = pa.schema([("illust_id", pa.int64()), ("page", pa.string())])
    rows = pa.table([[1, None, 4], ["0", "1", None]], schema=schema)
    bounds = Bounds(((2, 0),))
    dealt = deal(Folder(str(tmp_path)), "d", schema, [rows], bounds, "coalesce(page, '0')::INTEGER")
    assert dealt is not None and dealt.rows.tolist() == [1, 1]


def file(first: int, rows: int) -> DataFile:
    return DataFile("scores", f"scores/r/{first}", rows, 1, "", first_key=(first, 0))


def test_ranges_begin_where_live_files_do_and_elsewhere_only_where_the_catalog_has_more() -> None:
    live = [file(first, 100) for first in (0, 100, 200, 300)]
    as_live = [([(i, 0) for i in range(0, 400, 10)], 10.0)]
    assert chosen_bounds(live, as_live, 200).keys == ((100, 0), (200, 0), (300, 0))
    more = [([(i, 0) for i in range(1000, 2000, 10)], 10.0)]
    found = chosen_bounds(live, [*as_live, *more], 200).keys
    assert found == ((100, 0), (200, 0), (300, 0), (1100, 0), (1400, 0), (1700, 0))
    assert chosen_bounds([], [], 200).number == 1
    assert chosen_bounds([], more, 200).keys == tuple((i, 0) for i in (1200, 1400, 1600, 1800))


@pytest.mark.parametrize(("low", "high", "firsts"), [(None, None, [0, 10, 20]), ((10, 0), (20, 0), [10])])
def test_the_files_of_a_range(low: Key | None, high: Key | None, firsts: list[int]) -> None:
    files = [file(first, 1) for first in (0, 10, 20)]
    assert [f.first_key for f in overlapping(files, low, high)] == [(first, 0) for first in firsts]
    assert len(overlapping(files, (10, 1), (20, 0))) == 1
    assert len(overlapping(files, (9, 0), (10, 1))) == 2


def test_a_group_of_live_files_is_cut_only_where_more_than_a_range_changes() -> None:
    groups = [[file(0, 100)], [file(100, 100)]]
    few = planned_cuts(groups, [(50, 0), (150, 0)])
    assert [(cut.low, cut.high, cut.is_whole) for cut in few] == [
        (None, (100, 0), True),
        ((100, 0), None, True),
    ]
    many = planned_cuts(groups, [(10, 0), (20, 0), (30, 0), (40, 0), (150, 0)])
    lows = [(cut.low, cut.is_whole) for cut in many]
    assert lows == [(None, False), ((20, 0), False), ((40, 0), False), ((100, 0), True)]
    first_night = planned_cuts([], [(10, 0), (20, 0), (30, 0)])
    assert [cut.low for cut in first_night] == [None, (20, 0)]
