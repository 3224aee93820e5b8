"""From names to ids and pages."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.pictures.ids import key_sql
from pix2score.storage.sql import in_memory

FREE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=12)
SUFFIX = st.sampled_from(["jpg", "PNG", "webp"])


def keys(paths: list[str], **settings: Any) -> list[tuple[str, str]]:
    """Id and page as text, empty where there is none."""
    identity, page = key_sql(CatalogConfig(images="x", out="y", **settings))
    given = pa.table(
        {"path": paths, "file": [path.rpartition("/")[2] for path in paths], "place": range(len(paths))}
    )
    found = in_memory(f"SELECT {identity} AS id, {page} AS page FROM given ORDER BY place", given=given)
    return [(row["id"], row["page"]) for row in found.to_pylist()]


@pytest.mark.parametrize(
    ("path", "name", "number", "whole"),
    [
        ("123_p0.jpg", ("123", "0"), ("123", "0"), "123_p0"),
        ("a/123_p10_master1200.jpg", ("123", "10"), ("123", "10"), "a/123_p10_master1200"),
        ("x_12.png", ("x_12", ""), ("12", ""), "x_12"),
        ("007_p1.png", ("007", "1"), ("7", "1"), "007_p1"),
        ("a.b.c.jpg", ("a.b.c", ""), ("", ""), "a.b.c"),
        ("v1.2/bare", ("bare", ""), ("", ""), "v1.2/bare"),
        (
            "12345678901234567890_p0.jpg",
            ("12345678901234567890_p0", ""),
            ("", "0"),
            "12345678901234567890_p0",
        ),
        ("1790123456789012345_2.jpg", ("1790123456789012345_2", ""), ("1790123456789012345", ""))
        + ("1790123456789012345_2",),
        ("x99999999999999999999-7.jpg", ("x99999999999999999999-7", ""), ("", ""))
        + ("x99999999999999999999-7",),
        ("99_p3", ("99", "3"), ("99", "3"), "99_p3"),
        ("x.jpg/1.jpg", ("1", ""), ("1", ""), "x.jpg/1"),
    ],
)
def test_what_a_name_says(path: str, name: tuple[str, str], number: tuple[str, str], whole: str) -> None:
    assert keys([path]) == [name]
    assert keys([path], id="number") == [number]
    assert keys([path], id="path") == [(whole, "")]


@given(st.integers(0, 10**18 - 1), st.integers(0, 999_999), SUFFIX, st.sampled_from(["", "a/", "1_p2/"]))
def test_id_and_page_of_a_dump_are_found_again(number: int, page: int, suffix: str, folder: str) -> None:
    path = f"{folder}{number}_p{page}.{suffix}"
    for settings in ({}, {"id": "number"}, {"id_pattern": r"(?P<id>\d+)_p(?P<page>\d+)\.[A-Za-z]+$"}):
        assert keys([path], **settings) == [(str(number), str(page))]


@given(FREE, SUFFIX)
def test_a_name_without_a_page_is_the_id(stem: str, suffix: str) -> None:
    if not re.match(r"^[0-9]{1,18}_p[0-9]{1,6}(_.*)?$", stem, re.DOTALL):
        assert keys([f"deep/{stem}.{suffix}"]) == [(stem, "")]
    assert keys([f"deep/{stem}.{suffix}"], id="path") == [(f"deep/{stem}", "")]


@given(st.lists(FREE, min_size=2, max_size=2, unique=True), SUFFIX)
def test_files_of_one_folder_have_different_ids(stems: list[str], suffix: str) -> None:
    first, second = keys([f"{stem}.{suffix}" for stem in stems], id="path")
    assert first != second


def test_a_pattern_looks_at_the_whole_path() -> None:
    pattern = r"(?P<id>[a-z]+)/(?P<page>\d+)\.jpg"
    assert keys(["x/cat/3.jpg", "3.jpg", "cat/a.jpg"], id_pattern=pattern) == [
        ("cat", "3"),
        ("", ""),
        ("", ""),
    ]
