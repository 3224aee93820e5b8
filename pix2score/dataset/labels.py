"""Labels of a training set as SQL: read as numbers, cleaned, and what was dropped and why."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.rows import PlanCounts
from pix2score.heads.spec import HeadSpec

MAX_EXAMPLES = 5


def label_types(catalog: Catalog, heads: Sequence[HeadSpec]) -> list[tuple[str, pa.DataType]]:
    """(head, int64 or float64): integers stay exact, everything else becomes a float."""
    kinds = [catalog.schema.field(head.column).type for head in heads]
    exact = [pt.is_integer(kind) or pt.is_boolean(kind) for kind in kinds]
    return [(head.name, pa.int64() if e else pa.float64()) for head, e in zip(heads, exact, strict=True)]


def _number(raw: str, cast: str) -> str:
    return f"TRY_CAST({raw} AS {cast})"


def _legal(head: HeadSpec, number: str) -> str:
    legal = [f"isfinite(CAST({number} AS DOUBLE))"]
    if head.min_value > float("-inf"):
        legal.append(f"{number} >= {head.min_value!r}")
    if head.are_classes:
        legal.append(f"{number} <= {head.max_value} AND {number} = floor({number})")
    return " AND ".join(legal)


def clean_label(head: HeadSpec, raw: str, cast: str) -> str:
    """SQL: the label that column ``raw`` gives as SQL type ``cast``; null if the head cannot have it."""
    number = _number(raw, cast)
    return f"CASE WHEN {_legal(head, number)} THEN {number} END"


def dropped_labels(
    connection: duckdb.DuckDBPyConnection, head: HeadSpec, raw: str, cast: str
) -> list[tuple[str, int, list[str]]]:
    """Reason, number of labels that were there and were dropped for it, and the most frequent of them."""
    number = _number(raw, cast)
    reason = (
        f"CASE WHEN {number} IS NULL THEN 'not_a_number' WHEN NOT isfinite(CAST({number} AS DOUBLE)) THEN "
        "'not_finite' "
        f"WHEN {number} < {head.min_value if head.min_value > float('-inf') else '-1e999'} THEN "
        "'below_min_value' ELSE 'no_such_class' END"
    )
    dropped = f"{raw} IS NOT NULL AND {head.name}_label IS NULL"
    values = (
        f"SELECT {reason} AS reason, {raw} AS value, count(*) AS n FROM split_rows WHERE {dropped} "
        "GROUP BY ALL"
    )
    return connection.execute(
        "SELECT reason, sum(n)::BIGINT, list(left(CAST(value AS VARCHAR), 50) ORDER BY n DESC, "
        f"value)[:{MAX_EXAMPLES}] FROM ({values}) "
        f"GROUP BY 1 ORDER BY 1"
    ).fetchall()  # type: ignore[no-any-return]


def described_labels(heads: Sequence[HeadSpec], counts: PlanCounts) -> list[str]:
    """One line per head and reason for which labels were dropped: how many, examples, what was expected."""
    return [
        f"head {head.name}: {number} labels of column {head.column} dropped as {reason}, such as "
        f"{', '.join(map(repr, counts.dropped_examples[head.name][reason]))}{_expected_label(head, reason)}"
        for head in heads
        for reason, number in counts.dropped_labels[head.name].items()
    ]


def _expected_label(head: HeadSpec, reason: str) -> str:
    if head.are_classes:
        return f": classes must be 0 to {head.num_bins - 1}; give each word its number"
    if reason == "not_a_number":
        return ": labels must be numbers, with a point and without separators of thousands"
    return f": min_value is {head.min_value:g}" if reason == "below_min_value" else ""
