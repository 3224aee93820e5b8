"""Ranges of keys read side by side give every key once, whatever the keys are."""

from __future__ import annotations

import bisect
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2score.storage.key_ranges import Page, all_rows, between

KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
ALIKE = st.text("0123/a", min_size=1, max_size=8)


class Row(NamedTuple):
    key: str


def pages_of(keys: list[str], page_rows: int, wait_s: float = 0.0) -> Callable[[str], Page[Row]]:
    """A store of sorted keys that gives ``page_rows`` at a time, after a wait, in which others cut ranges."""
    rows = sorted(keys)

    def page(after: str) -> Page[Row]:
        start = bisect.bisect_right(rows, after)
        stop = min(len(rows), start + page_rows)
        time.sleep(wait_s)
        return [Row(key) for key in rows[start:stop]], stop < len(rows)

    return page


@given(st.sets(KEYS | ALIKE, max_size=60), st.integers(1, 7), st.integers(2, 6))
def test_every_key_comes_once(keys: set[str], page_rows: int, num_threads: int) -> None:
    keys |= {middle for key in keys if (middle := between(key, None))}  # where ranges are cut
    page = pages_of(list(keys), page_rows, wait_s=0.0005)
    found = [row.key for rows in all_rows(page, num_threads) for row in rows]
    assert sorted(found) == sorted(keys)


@given(KEYS | ALIKE, st.none() | KEYS | ALIKE)
def test_the_middle_of_a_range_lies_in_it(low: str, high: str | None) -> None:
    if high is not None and high <= low:
        low, high = high, low + "0"
    middle = between(low, high)
    assert middle is None or (low < middle and (high is None or middle < high))


@pytest.mark.parametrize("name", ["{:06}.jpg", "a/{:03}/x.jpg", "{:x}"])
def test_a_flat_space_of_keys_is_read_by_several_threads(name: str) -> None:
    keys = [name.format(number) for number in range(2000)]
    page, asked = pages_of(keys, 10, wait_s=0.001), list[int]()

    def counted(after: str) -> Page[Row]:
        asked.append(threading.get_ident())
        return page(after)

    found = [row.key for rows in all_rows(counted, 8) for row in rows]
    assert sorted(found) == sorted(keys)
    busiest = max(asked.count(thread) for thread in set(asked))
    assert busiest < len(keys) / 10 / 2  # one thread alone asks for 200 pages
    assert len(asked) < 2 * len(keys) / 10


def test_an_error_of_one_page_ends_all_and_comes_out() -> None:
    page = pages_of([f"{number:04}" for number in range(1000)], 10)

    def failing(after: str) -> Page[Row]:
        if after > "0500":
            raise PermissionError(after)
        return page(after)

    before = threading.active_count()
    with pytest.raises(PermissionError):
        list(all_rows(failing, 4))
    assert threading.active_count() == before


def test_who_stops_early_leaves_no_thread() -> None:
    before = threading.active_count()
    rows = all_rows(pages_of([f"{number:05}" for number in range(5000)], 5), 4)
    next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
