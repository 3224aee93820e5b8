"""SQL over catalog columns, as flags give it: what it selects, and what each mistake is told."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.expressions import Expression
from pix2score.catalog.rows import catalog_rows
from pix2score.errors import ConfigError
from tests.support.builders import write_catalog

ROWS: dict[str, Any] = {
    "illust_id": [1, 2, 3, 4],
    "uri": ["a", "b", "c", "d"],
    "bookmarks": pa.array([5, 50, None, 500], pa.int32()),
    "Title": ["x", "it's", "z", None],
    "tags": [["cat"], ["cat", "dog"], [], None],
    "order": [0.5, 1.5, 2.5, 3.5],
    "meta": [{"width": n} for n in (1, 2, 3, 4)],
    "posted": [datetime(2026, month, 1) for month in (1, 2, 3, 4)],
    "artist_id": ["p", "q", "p", "q"],
}


def opened(place: Path, expression: Expression) -> Catalog:
    catalog = open_catalog(write_catalog(str(place), ROWS), Columns(), others=expression.names)
    expression.check(catalog)
    return catalog


def ids(place: Path, expression: Expression) -> list[int]:
    catalog = opened(place, expression)
    clause = "ORDER BY" if expression.is_order else "WHERE"
    with catalog_rows(catalog, PlanCounts()) as connection:
        sql = f"SELECT illust_id FROM keyed {clause} {expression.sql(catalog)}"
        found = [row for (row,) in connection.execute(sql).fetchall()]
    return found if expression.is_order else sorted(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bookmarks > 10", [2, 4]),
        ("NOT bookmarks > 10", [1]),
        ("BookMarks IS NULL or title = 'x'", [1, 3]),
        ("Title = 'it''s' -- of all the titles", [2]),
        ("list_contains(tags, 'dog') AND tags[1] = 'cat'", [2]),
        ("len(list_filter(tags, lambda bookmarks: bookmarks = 'cat')) = 1 AND bookmarks < 10", [1]),
        ('"order" BETWEEN 1 AND 3', [2, 3]),
        ("meta.width IN (1, 4)", [1, 4]),
        ("posted >= '2026-03-01'", [3, 4]),
        ("artist_id = 'p' AND illust_id % 2 = 1 AND uri <> 'c'", [1]),
        ("CASE WHEN bookmarks > 100 THEN false ELSE true END", [1, 2, 3]),
        ("true", [1, 2, 3, 4]),
    ],
)
def test_a_condition_selects_the_rows_that_sql_says(tmp_path: Path, text: str, expected: list[int]) -> None:
    assert ids(tmp_path, Expression("--where", text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bookmarks DESC", [4, 2, 1, 3]),
        ("artist_id, bookmarks DESC NULLS FIRST", [3, 1, 4, 2]),
        ("-meta.width", [4, 3, 2, 1]),
    ],
)
def test_an_order_is_that_of_sql(tmp_path: Path, text: str, expected: list[int]) -> None:
    assert ids(tmp_path, Expression("--first", text, is_order=True)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bokmarks > 10", r"no column 'bokmarks' \(did you mean bookmarks\?\); it has illust_id, uri, bookm"),
        ("title2 = 'x'", r"did you mean Title\?"),
        ("t.bookmarks > 10", r"no column 't.bookmarks'"),
        ("bookmarks >", r"--where 'bookmarks >': syntax error at its end"),
        ("bookmarks >> > 1", r"syntax error at '> 1'"),
        ("", "expected"),
        ("bookmarks", "it gives BIGINT; expected true or false"),
        ("Title > 3", r"Cannot compare values of type VARCHAR and type INTEGER"),
        ("nothing(bookmarks)", "nothing does not exist"),
        ("sum(bookmarks) > 3", "aggregates"),
        ("bookmarks IN (SELECT 1)", "a subquery cannot be in it"),
        ("EXISTS (FROM read_text('/etc/passwd'))", "a subquery cannot be in it"),
        ("1) FROM read_text('/etc/passwd') WHERE (true", "and nothing else"),
        ("true) FROM (SELECT 1", "and nothing else"),
        ("true) UNION SELECT (true", "and nothing else"),
        ("true; DROP TABLE keyed", "syntax error"),
        ("true); DROP TABLE keyed; SELECT (true", "and nothing else"),
        ("true), (false", "and nothing else"),
        ("row_number() OVER () < 3", "a window function"),
        ("COLUMNS(*) > 3", "cannot be in it"),
        ("bookmarks > ?", "a parameter"),
    ],
)
def test_a_wrong_condition_is_one_line_that_says_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        opened(tmp_path, Expression("--where", text))
    assert "\n" not in str(caught.value).replace(repr(text), "")
    assert str(caught.value).startswith(f"--where {text!r}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bookmark DESC", r"did you mean bookmarks\?"),
        ("bookmarks DOWN", "syntax error at 'DOWN'"),
        ("1 DESC", "it names no column"),
        ("bookmarks LIMIT 3", "and nothing else"),
        ("sum(bookmarks)", "aggregates"),
        ("(SELECT bookmarks)", "a subquery"),
    ],
)
def test_a_wrong_order_is_one_line_that_says_what(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path, Expression("--first", text, is_order=True))
