"""The rows of a catalog, each key once, in order of work; and the Parquet parts that a plan is written as.

Owns the key rule: of rows with one key the greatest (``updated_at``, ``fingerprint``, ``uri``) wins. What a training set or a night's
scoring makes of the rows is ``training_plan`` and ``scoring_plan``. Works out of core in DuckDB: its memory does not grow with the catalog.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import pyarrow as pa

from pix2score.catalog import Catalog
from pix2score.engine import engine, load, one_row, parquet_bytes, query
from pix2score.errors import DataError
from pix2score.storage import Folder

PART_ROWS = 16_384
ROW_GROUP_ROWS = 1024  # a task that works on some rows of a part reads no more than these


@dataclass(frozen=True, slots=True)
class Part:
    """One Parquet file of a plan: its path in the output folder and its number of rows."""

    path: str
    rows: int


def total_rows(parts: Iterable[Part]) -> int:
    """Rows of all parts."""
    return sum(part.rows for part in parts)


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
    dropped_labels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Head -> reason -> rows whose label was dropped (the row stays)."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@contextlib.contextmanager
def catalog_rows(catalog: Catalog, counts: PlanCounts) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB whose table ``keyed`` holds each key of the catalog once, columns as in ``plan_schema`` but for labels (``label_i``).

    Raises ``DataError`` if no row has an id.
    """
    with engine() as connection:
        load(connection, "incoming_rows", catalog.rows_schema(), catalog.batches())
        catalog.check_unchanged()
        counts.catalog_rows, counts.null_id = one_row(connection, "SELECT count(*), count(*) - count(illust_id) FROM incoming_rows")
        try:
            _create_keyed(connection, catalog)
        except duckdb.ConversionException as exc:
            raise DataError(f"catalog {catalog.folder.uri}: a page is not a 32-bit number: {exc}") from None
        connection.execute("DROP TABLE incoming_rows")
        (num_keys,) = one_row(connection, "SELECT count(*) FROM keyed")
        counts.duplicate_key = counts.catalog_rows - counts.null_id - num_keys
        if not num_keys:
            raise DataError(f"catalog {catalog.folder.uri} has no rows with an id ({counts.catalog_rows} rows in all)")
        yield connection


def _create_keyed(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> None:
    """Table ``keyed`` from ``incoming_rows``. Only repeated keys are ranked: ranking all rows takes four times as long."""
    connection.execute(f"CREATE VIEW identified AS {_identified_sql(catalog)}")
    connection.execute("CREATE TABLE repeated AS SELECT illust_id, page FROM identified GROUP BY ALL HAVING count(*) > 1")
    connection.execute("CREATE TABLE keyed AS SELECT * EXCLUDE (newest) FROM identified ANTI JOIN repeated USING (illust_id, page)")
    connection.execute(
        "INSERT INTO keyed SELECT * EXCLUDE (newest) FROM identified SEMI JOIN repeated USING (illust_id, page) "
        "QUALIFY row_number() OVER (PARTITION BY illust_id, page "
        "ORDER BY newest DESC NULLS LAST, fingerprint DESC NULLS LAST, uri DESC NULLS LAST) = 1"
    )
    connection.execute("DROP VIEW identified")


def _identified_sql(catalog: Catalog) -> str:
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
    return (
        f"SELECT illust_id, {page}::INTEGER AS page, {text('uri')} AS uri, {where}, {marked} AS fingerprint, "
        f'coalesce({text("group")}, CAST(illust_id AS VARCHAR)) AS "group", {text("split")} AS split{labels}, {newest} AS newest '
        f"FROM incoming_rows WHERE illust_id IS NOT NULL"
    )


def stored_fingerprint_sql(catalog: Catalog, column: str) -> str:  # noqa: ARG001
    """SQL of a fingerprint that an earlier version stored in ``column``, as this one writes it."""
    return column


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
        folder.publish(path, parquet_bytes(table, row_group_rows=ROW_GROUP_ROWS), replace=True)
        parts.append(Part(path, table.num_rows))
    return parts
