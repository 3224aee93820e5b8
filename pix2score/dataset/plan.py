"""The plan of a training set: split, clean labels and learnt edges for the rows of a catalog.

Splits hash the group, so that one artist is never in two and a growing catalog moves nobody. Edges come
from the train split only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.keys import key_fields
from pix2score.catalog.planned import order_sql, plan_schema
from pix2score.catalog.rows import SOURCE, WEIGHT
from pix2score.catalog.several import Catalogs, rows_of_all
from pix2score.dataset.card import SPLITS
from pix2score.dataset.comparisons import OTHERS_FIELD, add_sets
from pix2score.dataset.labels import (
    MAX_EXAMPLES,
    described_labels,
    dropped_labels,
    label_columns,
    label_types,
)
from pix2score.dataset.near_identical import NearIdentical, find_spanning
from pix2score.dataset.side_table import SideTable
from pix2score.dataset.sources import SourceRules
from pix2score.errors import DataError
from pix2score.heads.spec import HeadSpec
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.parts import Part, write_parts
from pix2score.storage.sql import load

SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
"""Split -> what catalogs call it, in small letters."""
NO_RULES = SourceRules()
_UNKNOWN_SPLITS = (
    "SELECT coalesce(given_split, '(none)'), count(*) FROM split_rows WHERE split IS NULL OR split NOT IN "
    f"{SPLITS} "
    f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MAX_EXAMPLES}"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRule:
    """How rows are split; ``None`` where a plan has no splits."""

    val_fraction: float
    test_fraction: float
    max_pages: int


def plan_dataset(
    catalogs: Catalogs,
    heads: Sequence[HeadSpec],
    rule: SplitRule,
    folder: Folder,
    prefix: str,
    done: Sequence[str] = (),
    comparisons: SideTable | None = None,
    rules: SourceRules = NO_RULES,
    alike: NearIdentical | None = None,
) -> tuple[list[Part], PlanCounts, list[HeadSpec]]:
    """Write the parts of a training set; return them, counts, and the heads with what they learnt.

    That is edges, counts and typical values of the train split. Keys in the Parquet files ``done`` are
    planned, but in no part: an earlier attempt did them. Of ``comparisons`` each set is a row, too. Groups
    of ``alike`` that span splits are counted, and mended if it says so; not the images within sets.

    Raises ``DataError`` for zero rows or a head without two values, before anything is written.
    """
    counts = PlanCounts()
    with rows_of_all(catalogs, counts) as connection:
        catalog = catalogs.first
        types = label_types(catalog, heads, rules)
        rules.check_sources(connection)
        _split_rows(connection, catalogs, heads, rule, rules, counts)
        if alike:
            counts.near_identical = find_spanning(connection, alike)
            counts.planned -= counts.near_identical["dropped"]
        if comparisons:
            _add_sets(connection, comparisons, heads, counts)
        _refuse_none(catalogs, heads, counts)
        fitted = [_fit_head(connection, head) for head in heads]
        keys = pa.schema([field.with_nullable(True) for field in key_fields(catalog.id_type)])
        load(connection, "done", keys, parquet_batches(folder, done, keys.names))
        sql = f"SELECT * FROM chosen ANTI JOIN done USING (illust_id, page) {order_sql(catalog)}"
        schema = plan_schema(catalog.id_type, types, rules.fields())
        schema = schema.append(OTHERS_FIELD) if comparisons else schema
        return write_parts(connection, sql, schema, folder, prefix), counts, fitted


def _add_sets(
    connection: duckdb.DuckDBPyConnection,
    comparisons: SideTable,
    heads: Sequence[HeadSpec],
    counts: PlanCounts,
) -> None:
    """Add the rows of the sets to ``chosen``; count them, and as labelled the images that are in them."""
    (head,) = (head.name for head in heads if head.COMPARES)
    counts.comparisons = add_sets(connection, comparisons, head)
    counts.planned += sum(counts.comparisons["sets_by_split"].values())
    counts.unlabelled -= counts.comparisons.pop("num_unlabelled")


def _refuse_none(catalogs: Catalogs, heads: Sequence[HeadSpec], counts: PlanCounts) -> None:
    if not counts.planned:
        raise DataError(
            f"no row of catalog {catalogs.place} can be trained on: {'; '.join(_why_none(heads, counts))}"
        )


def _split_rows(
    connection: duckdb.DuckDBPyConnection,
    catalogs: Catalogs,
    heads: Sequence[HeadSpec],
    rule: SplitRule,
    rules: SourceRules,
    counts: PlanCounts,
) -> None:
    """Make table ``chosen``, rows with split and clean labels; fill ``counts``."""
    columns = {head.name: label_columns(catalogs.first, head) for head in heads}
    clean = ", ".join(f"{rules.label_sql(head, columns[head.name])} AS {head.name}_label" for head in heads)
    weight = f", {rules.weight_sql()} AS {WEIGHT}" if rules.has_weight else ""
    connection.execute(
        f"CREATE TABLE split_rows AS SELECT * REPLACE ({_split_sql(catalogs, rule)} AS split{weight}), "
        f"split AS given_split, {clean}, "
        f"row_number() OVER (PARTITION BY illust_id ORDER BY page) AS nth_page FROM {_rows_sql(catalogs)}"
    )
    for head in heads:
        dropped = dropped_labels(connection, head, columns[head.name])
        counts.dropped_labels[head.name] = {reason: number for reason, number, _ in dropped}
        counts.dropped_examples[head.name] = {reason: examples for reason, _, examples in dropped}
        moved = rules.relabelled(connection, head, columns[head.name])
        counts.relabelled |= {head.name: moved} if moved else {}
    _choose(connection, heads, rule, rules, counts)


def _rows_sql(catalogs: Catalogs) -> str:
    """SQL: what rows are split; of several catalogs with ``split_of_group`` beside each row.

    That is the split that a catalog gives the row's group: a row whose own catalog names no split follows it,
    so that a group stays in one.
    """
    if catalogs.are_plain:
        return "keyed"
    given = given_split()
    named = (
        f'SELECT "group", min({given}) AS split_of_group FROM keyed '
        f"WHERE names_split AND ({given}) IN {SPLITS} GROUP BY 1"
    )
    return f'keyed LEFT JOIN ({named}) USING ("group")'


def _split_sql(catalogs: Catalogs, rule: SplitRule) -> str:
    if catalogs.are_plain:
        return given_split() if catalogs.first.columns.split else split_by_hash(rule)
    return (
        f"CASE WHEN names_split THEN {given_split()} WHEN split_of_group IS NOT NULL THEN split_of_group "
        f"ELSE {split_by_hash(rule)} END"
    )


def _choose(
    connection: duckdb.DuckDBPyConnection,
    heads: Sequence[HeadSpec],
    rule: SplitRule,
    rules: SourceRules,
    counts: PlanCounts,
) -> None:
    unlabelled = " AND ".join(f"{head.name}_label IS NULL" for head in heads)
    # infinite ones too; NaN is none
    bad_weight = f"WHEN NOT ({WEIGHT} >= 0 AND isfinite({WEIGHT})) THEN 'bad_weight' " * rules.has_weight
    reason = (
        f"CASE WHEN split IS NULL OR split NOT IN {SPLITS} THEN 'unknown_split' WHEN nth_page > "
        f"{rule.max_pages} "
        f"THEN 'over_max_pages' {bad_weight}WHEN {unlabelled} THEN 'unlabelled' ELSE 'planned' END"
    )
    by_reason = dict(connection.execute(f"SELECT {reason}, count(*) FROM split_rows GROUP BY 1").fetchall())
    counts.planned = by_reason.get("planned", 0)
    counts.unknown_split = by_reason.get("unknown_split", 0)
    counts.over_max_pages = by_reason.get("over_max_pages", 0)
    counts.unlabelled = by_reason.get("unlabelled", 0)
    counts.bad_weight = by_reason.get("bad_weight", 0)
    if counts.unknown_split:
        counts.unknown_splits = dict(connection.execute(_UNKNOWN_SPLITS).fetchall())
    connection.execute(
        f"CREATE TABLE chosen AS SELECT * EXCLUDE (given_split) FROM split_rows WHERE {reason} = 'planned'"
    )
    if rules.has_source:
        by_source = f"SELECT {SOURCE}, split, count(*) FROM chosen GROUP BY ALL ORDER BY ALL"
        for source, split, number in connection.execute(by_source).fetchall():
            counts.sources.setdefault(source, {})[split] = number


def given_split() -> str:
    """SQL: the split that the catalog names, in capitals, with spaces around, or by a usual other name."""
    name = "lower(trim(split))"
    names = " ".join(
        f"WHEN {name} IN ({', '.join(map(repr, other))}) THEN '{ours}'" for ours, other in SPLIT_NAMES.items()
    )
    return f"CASE {names} ELSE split END"


def _why_none(heads: Sequence[HeadSpec], counts: PlanCounts) -> list[str]:
    """What became of every row, in words."""
    facts = [
        (counts.null_id, "without an id"),
        (counts.duplicate_key, "older ones of a key"),
        (counts.key_of_another, "of a key of an earlier catalog"),
        (counts.unknown_split, f"of no known split ({described_splits(counts)})"),
        (counts.over_max_pages, "beyond max_pages"),
        (counts.bad_weight, "of a negative weight"),
        (counts.unlabelled, "without a label"),
        (counts.near_identical.get("dropped", 0), "near-identical to one of another split"),
    ]
    listed = ", ".join(f"{number} {words}" for number, words in facts if number)
    return [f"of its {counts.catalog_rows} rows, {listed} are left out", *described_labels(heads, counts)]


def described_splits(counts: PlanCounts) -> str:
    """The unknown values of the split column with their rows, and what is accepted."""
    values = ", ".join(f"{number} {value!r}" for value, number in counts.unknown_splits.items())
    accepted = ", ".join(name for names in SPLIT_NAMES.values() for name in names)
    return f"{values}; accepted: {accepted}"


def split_by_hash(rule: SplitRule) -> str:
    """SQL: the split of a row by the hash of its column ``group``."""
    # md5 rather than DuckDB's own hash: the split must not move with a version of DuckDB.
    draw = "md5_number_lower('split/' || \"group\") / 18446744073709551616.0"
    return (
        f"CASE WHEN {draw} < {rule.test_fraction} THEN 'test' "
        f"WHEN {draw} < {rule.test_fraction + rule.val_fraction} THEN 'val' ELSE 'train' END"
    )


def _fit_head(connection: duckdb.DuckDBPyConnection, head: HeadSpec) -> HeadSpec:
    labels = (
        f"WITH labels AS (SELECT {head.name}_label AS label FROM chosen WHERE split = 'train' AND "
        f"{head.name}_label IS NOT NULL) "
    )

    def query(sql: str) -> Iterator[pa.RecordBatch]:
        yield from connection.cursor().sql(labels + sql).to_arrow_reader(65_536)

    return head.fit(query)
