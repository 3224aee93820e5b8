"""Which rows of a catalog are worked on, once each, in what order: the plan, written as Parquet parts that tasks read.

Owns the key rule (of rows with one key the greatest ``updated_at``, ``fingerprint``, ``uri`` wins), splits, labels and order. Works out of
core in DuckDB: its memory does not grow with the catalog. Comparing with earlier
nights (removed keys; later new, changed, stale, retry, carried) belongs here too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from pix2score import bins
from pix2score.catalog import Catalog
from pix2score.engine import engine, load, one_row, open_parquet, parquet_batches, parquet_bytes, query
from pix2score.errors import DataError, LimitError
from pix2score.heads import HeadSpec
from pix2score.schema import KEY, key_fields, plan_schema
from pix2score.storage import Folder

PART_ROWS = 16_384
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a plan: its path in the output folder and its number of rows."""

    path: str
    rows: int


@dataclass(slots=True)
class PlanCounts:
    """What became of every catalog row."""

    catalog_rows: int = 0
    null_id: int = 0
    duplicate_key: int = 0
    over_max_pages: int = 0
    unknown_split: int = 0
    unlabelled: int = 0
    planned: int = 0
    live: int = 0
    """Keys of the live snapshot."""
    removed: int = 0
    """Those of them that the catalog no longer has."""
    dropped_labels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Head -> reason -> rows whose label was dropped (the row stays)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitRule:
    """How rows are split; ``None`` where a plan has no splits."""

    val_fraction: float
    test_fraction: float
    max_pages: int


@contextlib.contextmanager
def catalog_rows(catalog: Catalog, counts: PlanCounts) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB whose table ``keyed`` holds each key of the catalog once, columns as in ``plan_schema`` but for labels (``label_i``).

    Raises ``DataError`` if no row has an id.
    """
    with engine() as connection:
        load(connection, "incoming_rows", catalog.rows_schema(), catalog.batches())
        counts.catalog_rows, counts.null_id = one_row(connection, "SELECT count(*), count(*) - count(illust_id) FROM incoming_rows")
        connection.execute(f"CREATE TABLE keyed AS {_keyed_sql(catalog)}")
        connection.execute("DROP TABLE incoming_rows")
        (num_keys,) = one_row(connection, "SELECT count(*) FROM keyed")
        counts.duplicate_key = counts.catalog_rows - counts.null_id - num_keys
        if not num_keys:
            raise DataError(f"catalog {catalog.folder.uri} has no rows with an id ({counts.catalog_rows} rows in all)")
        yield connection


def _keyed_sql(catalog: Catalog) -> str:
    names = catalog.rows_schema().names

    def text(name: str) -> str:
        return f'CAST("{name}" AS VARCHAR)' if name in names else "NULL::VARCHAR"

    image_id = f"'sha256:' || {text('sha256')}" if catalog.embedded else f"'uri:' || {text('uri')}"
    kind = catalog.fingerprint_kind.replace("'", "''")
    marked = f"coalesce('{kind}:' || {text('fingerprint')}, {image_id})" if catalog.columns.fingerprint else image_id
    page = "coalesce(CAST(page AS INTEGER), 0)" if "page" in names else "0"
    newest = '"updated_at"' if "updated_at" in names else "NULL"
    labels = "".join(f", label_{i}" for i in range(len(catalog.labels)))
    where = 'file, "row"' if catalog.embedded else 'NULL::VARCHAR AS file, NULL::BIGINT AS "row"'
    rows = (
        f"SELECT illust_id, {page}::INTEGER AS page, {text('uri')} AS uri, {where}, {marked} AS fingerprint, "
        f'coalesce({text("group")}, CAST(illust_id AS VARCHAR)) AS "group", {text("split")} AS split{labels}, {newest} AS newest '
        f"FROM incoming_rows WHERE illust_id IS NOT NULL"
    )
    return (
        f"SELECT * EXCLUDE (newest) FROM ({rows}) QUALIFY row_number() OVER (PARTITION BY illust_id, page "
        f"ORDER BY newest DESC NULLS LAST, fingerprint DESC NULLS LAST, uri DESC NULLS LAST) = 1"
    )


def order_sql(catalog: Catalog) -> str:
    """Order of work: by hash of the key, so that any part is a random sample; embedded images as they lie, file by hash."""
    if catalog.embedded:
        return 'ORDER BY md5_number_lower(file), file, "row"'
    return "ORDER BY md5_number_lower(concat_ws('/', illust_id, page)), illust_id, page"


def write_parts(
    connection: duckdb.DuckDBPyConnection, sql: str, schema: pa.Schema, folder: Folder, prefix: str, part_rows: int = PART_ROWS
) -> list[Part]:
    """The rows of ``sql`` as Parquet parts ``<prefix>-00000.parquet`` … of ``part_rows`` rows."""
    parts = []
    for number, table in enumerate(query(connection, sql, schema, part_rows)):
        path = f"{prefix}-{number:05}.parquet"
        folder.publish(path, parquet_bytes(table, row_group_rows=part_rows), replace=True)
        parts.append(Part(path, table.num_rows))
    return parts


def plan_scoring(
    catalog: Catalog,
    folder: Folder,
    prefix: str,
    *,
    live_scores: Sequence[str] = (),
    max_removed: float = 1.0,
    limit: int | None = None,
) -> tuple[list[Part], PlanCounts]:
    """Parts that hold every key of the catalog once, or some ``limit`` of them.

    Raises, before anything is written:
        DataError: zero rows.
        LimitError: more than ``max_removed`` of the keys in the files ``live_scores`` are gone: a truncated catalog
            must not empty the scores.
    """
    counts = PlanCounts()
    with catalog_rows(catalog, counts) as connection:
        if live_scores:
            _count_removed(connection, catalog, folder, live_scores, max_removed, counts)
        first = f" LIMIT {limit}" if limit else ""
        schema = plan_schema(catalog.id_type)
        parts = write_parts(connection, f"SELECT * FROM keyed {order_sql(catalog)}{first}", schema, folder, prefix)
        counts.planned = sum(part.rows for part in parts)
        return parts, counts


def _count_removed(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    folder: Folder,
    paths: Sequence[str],
    max_removed: float,
    counts: PlanCounts,
) -> None:
    with open_parquet(folder, paths[0]) as file:
        live_type = file.schema_arrow.field("illust_id").type
    if not live_type.equals(catalog.id_type):
        raise DataError(f"the catalog's ids are {catalog.id_type}, those in {folder.uri} are {live_type}; give another --out")
    keys = pa.schema([field.with_nullable(True) for field in key_fields(live_type)])
    load(connection, "live", keys, parquet_batches(folder, paths, list(KEY)))
    sql = "SELECT count(*), (SELECT count(*) FROM live ANTI JOIN keyed USING (illust_id, page)) FROM live"
    counts.live, counts.removed = one_row(connection, sql)
    if counts.removed > max_removed * counts.live:
        raise LimitError(
            f"{counts.removed} of {counts.live} illustrations in the live snapshot are not in catalog {catalog.folder.uri}, over "
            f"--max-removed {max_removed:g}: nothing was published; if they are meant to go, raise it"
        )


def plan_dataset(
    catalog: Catalog, heads: Sequence[HeadSpec], rule: SplitRule, folder: Folder, prefix: str
) -> tuple[list[Part], PlanCounts, list[HeadSpec]]:
    """Parts for a training set, and the heads with edges, counts and typical values of the train split.

    Raises ``DataError`` for zero rows or a head without two values, before anything is written.
    """
    counts = PlanCounts()
    with catalog_rows(catalog, counts) as connection:
        types = label_types(catalog, heads)
        _split_rows(connection, catalog, heads, types, rule, counts)
        fitted = [_fit_head(connection, head) for head in heads]
        sql = f"SELECT * FROM chosen {order_sql(catalog)}"
        return write_parts(connection, sql, plan_schema(catalog.id_type, types), folder, prefix), counts, fitted


def label_types(catalog: Catalog, heads: Sequence[HeadSpec]) -> list[tuple[str, pa.DataType]]:
    """(head, int64 or float64): integers stay exact, everything else becomes a float."""
    kinds = [catalog.schema.field(head.column).type for head in heads]
    exact = [pt.is_integer(kind) or pt.is_boolean(kind) for kind in kinds]
    return [(head.name, pa.int64() if e else pa.float64()) for head, e in zip(heads, exact, strict=True)]


def _split_rows(
    connection: duckdb.DuckDBPyConnection,
    catalog: Catalog,
    heads: Sequence[HeadSpec],
    types: Sequence[tuple[str, pa.DataType]],
    rule: SplitRule,
    counts: PlanCounts,
) -> None:
    """Makes table ``chosen``: rows with split and clean labels; fills ``counts``."""
    position = {column: i for i, column in enumerate(catalog.labels)}
    raw = {head.name: f"label_{position[head.column]}" for head in heads}
    cast = {name: "BIGINT" if t.equals(pa.int64()) else "DOUBLE" for name, t in types}
    clean = ", ".join(f"{_clean_label(head, raw[head.name], cast[head.name])} AS {head.name}_label" for head in heads)
    split = "split" if catalog.columns.split else _split_by_hash(rule)
    connection.execute(
        f"CREATE TABLE split_rows AS SELECT * REPLACE ({split} AS split), {clean}, "
        f"row_number() OVER (PARTITION BY illust_id ORDER BY page) AS nth_page FROM keyed"
    )
    counts.dropped_labels = {head.name: _dropped_labels(connection, head, raw[head.name], cast[head.name]) for head in heads}
    unlabelled = " AND ".join(f"{head.name}_label IS NULL" for head in heads)
    reason = (
        f"CASE WHEN split IS NULL OR split NOT IN {SPLITS} THEN 'unknown_split' WHEN nth_page > {rule.max_pages} "
        f"THEN 'over_max_pages' WHEN {unlabelled} THEN 'unlabelled' ELSE 'planned' END"
    )
    for name, number in connection.execute(f"SELECT {reason}, count(*) FROM split_rows GROUP BY 1").fetchall():
        setattr(counts, name, number)
    connection.execute(f"CREATE TABLE chosen AS SELECT * FROM split_rows WHERE {reason} = 'planned'")
    if not counts.planned:
        raise DataError(f"no row of catalog {catalog.folder.uri} can be trained on: {counts.to_dict()}")


def _split_by_hash(rule: SplitRule) -> str:
    # md5 rather than DuckDB's own hash: the split must not move with a version of DuckDB.
    draw = "md5_number_lower('split/' || \"group\") / 18446744073709551616.0"
    return (
        f"CASE WHEN {draw} < {rule.test_fraction} THEN 'test' "
        f"WHEN {draw} < {rule.test_fraction + rule.val_fraction} THEN 'val' ELSE 'train' END"
    )


def _number(raw: str, cast: str) -> str:
    return f"TRY_CAST({raw} AS {cast})"


def _legal(head: HeadSpec, number: str) -> str:
    legal = [f"isfinite(CAST({number} AS DOUBLE))"]
    if head.min_value > float("-inf"):
        legal.append(f"{number} >= {head.min_value!r}")
    if head.are_classes:
        legal.append(f"{number} <= {head.max_value} AND {number} = floor({number})")
    return " AND ".join(legal)


def _clean_label(head: HeadSpec, raw: str, cast: str) -> str:
    number = _number(raw, cast)
    return f"CASE WHEN {_legal(head, number)} THEN {number} END"


def _dropped_labels(connection: duckdb.DuckDBPyConnection, head: HeadSpec, raw: str, cast: str) -> dict[str, int]:
    """Reason -> number of labels that were there and were dropped."""
    number = _number(raw, cast)
    reason = (
        f"CASE WHEN {number} IS NULL THEN 'not_a_number' WHEN NOT isfinite(CAST({number} AS DOUBLE)) THEN 'not_finite' "
        f"WHEN {number} < {head.min_value if head.min_value > float('-inf') else '-1e999'} THEN 'below_min_value' ELSE 'no_such_class' END"
    )
    dropped = f"{raw} IS NOT NULL AND {head.name}_label IS NULL"
    return dict(connection.execute(f"SELECT {reason}, count(*) FROM split_rows WHERE {dropped} GROUP BY 1 ORDER BY 1").fetchall())


def _fit_head(connection: duckdb.DuckDBPyConnection, head: HeadSpec) -> HeadSpec:
    def value_counts() -> Iterator[tuple[bins.Values, Any]]:
        sql = f"SELECT {head.name}_label AS v, count(*) AS n FROM chosen WHERE split = 'train' AND v IS NOT NULL GROUP BY 1 ORDER BY 1"
        for batch in connection.cursor().sql(sql).to_arrow_reader(65_536):
            yield batch.column(0).to_numpy(zero_copy_only=False), batch.column(1).to_numpy(zero_copy_only=False)

    learnt = bins.learn_edges(value_counts, int(head.size or 0), head=head.name) if head.needs_learning else None
    edges = learnt if learnt is not None else list(head.bin_edges)
    counts = bins.count_bins(value_counts(), edges)
    if not sum(counts):
        raise DataError(f"head {head.name!r} has no label in the train split; column {head.column!r} is empty there")
    typical = bins.typical_values(value_counts(), edges, counts, head.min_value)
    return head.fitted(edges=None if head.are_classes else edges, counts=counts, typical=typical)
