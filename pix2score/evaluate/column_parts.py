"""The values of a column as a few parts: its most frequent ones, or the quarters of a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from pix2score.heads.bins import short
from pix2score.storage.quoting import literal
from pix2score.storage.sql import one_row

MAX_VALUES = 20
"""So many are shown by themselves; the rarest are summed."""
NONE = "(none)"
"""Rows without a value."""


@dataclass(frozen=True, slots=True)
class Parts:
    """Names of parts in the order in which they are shown, and how they were made, in a sentence."""

    names: tuple[str, ...]
    note: str


def most_frequent(
    connection: duckdb.DuckDBPyConnection, value: str, text: str, *, is_number: bool
) -> tuple[Parts, str]:
    """A part for each of the ``MAX_VALUES`` most frequent values of column ``value`` of table ``found``.

    Numbers ascending, others by how many rows they have; then the sum of the rest, and rows without any.
    Returns SQL of a row's part, too. ``text``: SQL of a value as people read it.
    """
    counted = connection.execute(
        f"SELECT {text} AS t, count(*) AS n, any_value({value}) AS v FROM found WHERE {text} IS NOT NULL "
        "GROUP BY t ORDER BY n DESC, t"
    ).fetchmany(MAX_VALUES)
    shown = sorted(counted, key=lambda row: row[2]) if is_number else counted
    names = [name for name, _, _ in shown]
    (num_values, num_none) = one_row(
        connection, f"SELECT count(DISTINCT {text}), count(*) - count({text}) FROM found"
    )
    rest = num_values - len(names)
    number = " ".join(f"WHEN {literal(name)} THEN {i}" for i, name in enumerate(names))
    more = [f"others ({rest} values)"] if rest else []
    none = len(names) + len(more)
    sql = f"CASE WHEN {text} IS NULL THEN {none} ELSE CASE {text} {number} ELSE {len(names)} END END"
    note = f"Its {len(names)} most frequent values of {num_values}." if rest else f"Its {len(names)} values."
    return Parts((*names, *more, *([NONE] if num_none else [])), note), sql if names else str(none)


def cut_into_quarters(
    connection: duckdb.DuckDBPyConnection, value: str, *, is_whole: bool
) -> tuple[Parts, str]:
    """The quarters of a number by the quartiles of column ``value`` of table ``found``; and SQL of a row's.

    Fewer where values are tied. A value on a border is in the upper one.
    """
    known = f"(CASE WHEN isnan({value}::DOUBLE) THEN NULL ELSE {value}::DOUBLE END)"
    (borders,) = one_row(connection, f"SELECT quantile_cont({known}, [0.25, 0.5, 0.75]) FROM found")
    quarter = " + ".join(f"({known} >= {border!r})::INTEGER" for border in sorted(set(borders)))
    rows = connection.execute(
        f"SELECT {quarter} AS q, min({known}), max({known}) FROM found GROUP BY q ORDER BY q NULLS LAST"
    ).fetchall()
    names = [_range(low, high, is_whole) if q is not None else NONE for q, low, high in rows]
    number = " ".join(f"WHEN {q} THEN {i}" for i, (q, *_) in enumerate(rows) if q is not None)
    note = f"Cut at its quartiles, {_listed(borders)}: a number of more than {MAX_VALUES} values."
    return Parts(tuple(names), note), f"CASE {quarter} {number} ELSE {len(names) - 1} END"


def _listed(borders: Sequence[float]) -> str:
    return ", ".join(f"{border:.6g}" for border in borders)


def _range(low: float, high: float, is_whole: bool) -> str:
    texts = [short(end) if abs(end) >= 1000 or is_whole else f"{end:.3g}" for end in (low, high)]
    return f"{texts[0]} to {texts[1]}"
