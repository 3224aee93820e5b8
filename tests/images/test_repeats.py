"""Images that share one content are counted: never too many, in bounded memory, however the pieces are cut
and merged."""

from __future__ import annotations

import logging
import random
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2score.images.repeats import CONTENT_ID, MOST_OF_PIECE, Repeats, content_id, of_piece


def piece(contents: list[bytes | None]) -> pa.Table:
    return pa.table(
        {CONTENT_ID.name: pa.array([None if c is None else content_id(c) for c in contents], CONTENT_ID.type)}
    )


def test_contents_are_told_apart_by_size_beginning_and_end() -> None:
    whole = bytes(300_000)
    others = [whole[:-1], b"\1" + whole[1:], whole[:-1] + b"\1", b""]
    assert len({content_id(content) for content in [whole, *others]}) == 5
    assert content_id(bytes(300_000)) == content_id(whole)


def test_a_piece_tells_what_stands_more_than_once() -> None:
    found = of_piece(piece([b"deleted", b"a", b"deleted", None, None, b"b", b"deleted", b"b"]))
    assert sorted(found.values()) == [2, 3]
    assert of_piece(piece([b"a", b"b", None, None])) == {}
    assert of_piece(piece([])) == {}
    assert of_piece(pa.table({"illust_id": [1, 1]})) == {}


def test_a_piece_tells_no_more_than_its_most_common() -> None:
    found = of_piece(piece([str(i).encode() for i in range(100) for _ in range(2 + i % 50)]))
    assert len(found) == MOST_OF_PIECE
    assert min(found.values()) >= 43


@given(
    st.lists(st.dictionaries(st.sampled_from("abcdefghij"), st.integers(1, 50), max_size=6), max_size=8),
    st.integers(1, 12),
)
def test_merged_counts_are_never_too_high_and_hardly_too_low(pieces: list[dict[str, int]], most: int) -> None:
    exact: Counter[str] = Counter()
    merged = Repeats(most)
    for counts in pieces:
        exact.update(counts)
        merged.add(counts)
    assert len(merged.counts) <= most
    for content, number in exact.items():
        assert number - exact.total() / (most + 1) <= merged.counts[content] <= number


@given(
    st.lists(
        st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 50), max_size=4), min_size=2, max_size=6
    )
)
def test_summaries_of_summaries_keep_the_bound(pieces: list[dict[str, int]]) -> None:
    exact: Counter[str] = Counter()
    halves = [Repeats(3), Repeats(3)]
    for i, counts in enumerate(pieces):
        exact.update(counts)
        halves[i % 2].add(counts)
    halves[0].add(halves[1].counts)
    for content, number in exact.items():
        assert number - exact.total() / 4 <= halves[0].counts[content] <= number


def test_a_placeholder_of_a_hundredth_of_a_night_is_found() -> None:
    rng = random.Random(0)
    contents = [b"deleted" if rng.random() < 0.01 else rng.randbytes(8) for _ in range(20_000)]
    merged = Repeats()
    for start in range(0, 20_000, 512):
        merged.add(of_piece(piece(contents[start : start + 512])))
    facts = merged.summary()
    assert 0.9 * contents.count(b"deleted") < facts["most_common"] <= contents.count(b"deleted")
    assert facts["contents"] == 1
    assert "images share one content; it stands" in merged.sentence()
    assert Repeats().sentence() == ""


def test_a_content_of_many_images_is_a_warning_and_of_a_few_is_told(caplog: pytest.LogCaptureFixture) -> None:
    for number, level in ((0, None), (2, logging.INFO), (10, logging.WARNING)):
        caplog.clear()
        repeats = Repeats()
        repeats.add({"a": number} if number else {})
        with caplog.at_level(logging.INFO):
            repeats.log(logging.getLogger("x"))
        assert [record.levelno for record in caplog.records] == ([level] if level else [])
