"""Labels of a training set: cleaned by their heads' rules, and what was dropped and why."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.counts import PlanCounts
from pix2score.dataset.sources import SourceRules
from pix2score.heads.spec import HeadSpec, LabelColumn

MAX_EXAMPLES = 5


def label_columns(catalog: Catalog, head: HeadSpec) -> list[LabelColumn]:
    """The label columns of a head, as the rows of ``catalog_rows`` have them."""
    position = {column: i for i, column in enumerate(catalog.labels)}
    return [
        LabelColumn(f"label_{position[name]}", catalog.schema.field(name).type) for name in head.label_columns
    ]


def label_types(
    catalog: Catalog, heads: Sequence[HeadSpec], rules: SourceRules
) -> list[tuple[str, pa.DataType]]:
    """(head, type of its clean label)."""
    return [
        (head.name, rules.label_type(head, head.label_type(label_columns(catalog, head)))) for head in heads
    ]


def dropped_labels(
    connection: duckdb.DuckDBPyConnection, head: HeadSpec, columns: Sequence[LabelColumn]
) -> list[tuple[str, int, list[str]]]:
    """Reason, number of labels that were there and were dropped for it, and the most frequent of them."""
    if not columns:
        return []
    given = head.given_sql(columns)
    dropped = f"({given}) IS NOT NULL AND {head.name}_label IS NULL"
    values = (
        f"SELECT {head.reason_sql(columns)} AS reason, {given} AS value, count(*) AS n FROM split_rows "
        f"WHERE {dropped} GROUP BY ALL"
    )
    return connection.execute(
        f"SELECT reason, sum(n)::BIGINT, list(left(value, 50) ORDER BY n DESC, value)[:{MAX_EXAMPLES}] "
        f"FROM ({values}) GROUP BY 1 ORDER BY 1"
    ).fetchall()  # type: ignore[no-any-return]


def described_labels(heads: Sequence[HeadSpec], counts: PlanCounts) -> list[str]:
    """One line per head and reason for which labels were dropped: how many, examples, what was expected."""
    return [
        f"head {head.name}: {number} labels of column {', '.join(head.label_columns)} dropped as {reason}, "
        f"such as {', '.join(map(repr, counts.dropped_examples[head.name][reason]))}"
        f"{head.expected_label(reason)}"
        for head in heads
        for reason, number in counts.dropped_labels[head.name].items()
    ]
