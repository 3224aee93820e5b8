"""The rows of a catalog, each key once, in order of work; and the Parquet parts that a plan is written as.

Owns the key rule: of rows with one key the greatest (``updated_at``, ``fingerprint``, ``uri``) wins. What a
training set or a night's scoring makes of the rows is ``dataset.plan`` and ``nightly.plan``. Works out of
core in DuckDB: its memory does not grow with the catalog.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.opening import open_file
from pix2score.catalog.types import stored_bytes_sql, stored_text_sql, text_sql
from pix2score.errors import DataError
from pix2score.storage.sql import engine, load, one_row

logger = logging.getLogger(__name__)
SOURCE, WEIGHT = "source", "weight"
"""Our names of columns that say where a row's labels come from, and what it weighs in training."""
PLAN_DISK_BYTES = 350
"""Temporary disk per catalog row: its columns and the live row's, compressed, and both once more while they
are joined and sorted."""


@contextlib.contextmanager
def catalog_rows(catalog: Catalog, counts: PlanCounts) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB whose view ``keyed`` holds each key of the catalog once, columns as in ``plan_schema`` but for
    labels (``label_i``).

    Raises:
        DataError: no row has an id.
        ConfigError: the disk of temporary files has too little room for so many rows.
    """
    rows = estimated_rows(catalog)
    with engine(disk_bytes=rows * PLAN_DISK_BYTES, what=f"planning about {rows} catalog rows") as connection:
        load_keyed(connection, catalog, counts)
        yield connection


def load_keyed(connection: duckdb.DuckDBPyConnection, catalog: Catalog, counts: PlanCounts) -> None:
    """Make view ``keyed`` as ``catalog_rows`` says; ``drop_keyed`` removes what it is made of."""
    load(connection, "incoming_rows", catalog.rows_schema(), catalog.batches())
    catalog.check_unchanged()
    counts.catalog_rows, counts.null_id = one_row(
        connection, "SELECT count(*), count(*) - count(illust_id) FROM incoming_rows"
    )
    identify(connection, catalog)
    num_keys = create_keyed(connection, catalog)
    counts.duplicate_key = counts.catalog_rows - counts.null_id - num_keys
    if not num_keys:
        raise no_rows(catalog, counts.catalog_rows)


def no_rows(catalog: Catalog, num_rows: int) -> DataError:
    """The error of a catalog without any id among its ``num_rows``."""
    return DataError(f"catalog {catalog.folder.uri} has no rows with an id ({num_rows} rows in all)")


def identify(connection: duckdb.DuckDBPyConnection, catalog: Catalog) -> None:
    """View ``identified`` of table ``incoming_rows``, and table ``repeated``: keys of several of its rows.

    Raises ``DataError`` for a page that is no number.
    """
    connection.execute(f"CREATE VIEW identified AS {_identified_sql(catalog)}")
    with named_pages(catalog):
        connection.execute(
            "CREATE TABLE repeated AS SELECT illust_id, page FROM identified GROUP BY ALL HAVING count(*) > 1"
        )


@contextlib.contextmanager
def named_pages(catalog: Catalog) -> Iterator[None]:
    """Raise ``DataError`` for a page that the block finds to be no number."""
    try:
        yield
    except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException) as exc:
        reason = str(exc).partition("\n")[0]
        raise DataError(f"catalog {catalog.folder.uri}: a page is not a 32-bit number: {reason}") from None


def drop_keyed(connection: duckdb.DuckDBPyConnection) -> None:
    """Remove what ``load_keyed`` made."""
    connection.execute("DROP VIEW keyed; DROP VIEW identified; DROP TABLE repeated; DROP TABLE incoming_rows")


def estimated_rows(catalog: Catalog) -> int:
    """About how many rows the catalog has: from the footer of its largest file, and the sizes of all;
    thousands of footers take minutes."""
    largest = max(catalog.files, key=lambda entry: entry.size)
    with open_file(catalog.folder, largest) as file:
        rows = file.metadata.num_rows
    return int(rows / max(1, largest.size) * sum(entry.size for entry in catalog.files))


def create_keyed(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, texts: UpdatedTexts | None = None
) -> int:
    """View ``keyed`` of ``identified``; the losers among repeated keys are deleted. Returns how many keys.

    A view, as every copy of all rows costs as much as reading the catalog did. Only repeated keys are ranked:
    ranking all rows takes four times as long. ``texts``: what ``updated_texts`` found in all rows, where
    table ``incoming_rows`` holds some of them.
    """
    newest = [f"{sql} DESC NULLS LAST" for sql in _newest_sql(connection, catalog, texts)]
    # Beyond the key rule every other column, so that rows that differ in a label, or lie elsewhere, do not
    # take turns from night to night.
    ties = ["file", '"row"', '"group"', "split", *(f"label_{i}" for i in range(len(catalog.labels)))]
    order = ", ".join([*newest, *(f"{column} DESC NULLS LAST" for column in ("fingerprint", "uri", *ties))])
    with named_pages(catalog):
        connection.execute(
            "DELETE FROM incoming_rows WHERE rowid IN (SELECT position FROM identified SEMI JOIN repeated "
            "USING (illust_id, page) "
            f"QUALIFY row_number() OVER (PARTITION BY illust_id, page ORDER BY {order}) > 1)"
        )
    connection.execute("CREATE VIEW keyed AS SELECT * EXCLUDE (newest, position) FROM identified")
    return int(one_row(connection, "SELECT count(*) FROM keyed")[0])


@dataclass(frozen=True, slots=True)
class UpdatedTexts:
    """Times of an update that are texts, of the rows whose key is repeated: how many read as what."""

    texts: int
    numbers: int
    times: int
    example: str | None
    """The first of those that read as neither, else any."""


def is_updated_text(catalog: Catalog) -> bool:
    """Whether all rows with repeated keys say together how their times of an update compare."""
    schema = catalog.rows_schema()
    return "updated_at" in schema.names and schema.field("updated_at").type.equals(pa.string())


_NUMBER, _TIME = "TRY_CAST(newest AS DOUBLE)", "TRY_CAST(newest AS TIMESTAMPTZ)"


def updated_texts(connection: duckdb.DuckDBPyConnection) -> UpdatedTexts:
    """Of view ``identified``."""
    rows = "(SELECT newest FROM identified SEMI JOIN repeated USING (illust_id, page))"
    is_either = f"{_TIME} IS NOT NULL OR {_NUMBER} IS NOT NULL"
    sql = f"count(newest), count({_NUMBER}), count({_TIME}), min_by(newest, {is_either})"
    return UpdatedTexts(*one_row(connection, f"SELECT {sql} FROM {rows}"))


def _newest_sql(
    connection: duckdb.DuckDBPyConnection, catalog: Catalog, texts: UpdatedTexts | None
) -> list[str]:
    """By what the newest of rows with one key is found; texts are numbers or times if all of them read as
    such, else compared as texts."""
    schema = catalog.rows_schema()
    if "updated_at" not in schema.names:
        return ["newest"]
    kind = schema.field("updated_at").type
    if pt.is_floating(kind):
        return ["CASE WHEN isnan(newest) THEN NULL ELSE newest END"]  # DuckDB takes NaN as the greatest
    if not kind.equals(pa.string()):
        return ["newest"]
    found = texts or updated_texts(connection)
    if found.texts == found.numbers:
        return [
            f"CASE WHEN isnan({_NUMBER}) THEN NULL ELSE {_NUMBER} END",
            "TRY_CAST(newest AS HUGEINT)",
        ]  # whole ones beyond 2^53 too
    if found.texts == found.times:
        return [_TIME]
    logger.warning(
        "column %s holds texts that are neither all numbers nor all times, such as %r: of rows with one key "
        "the last as a text wins",
        catalog.columns.updated_at,
        found.example,
    )
    return ["newest"]


def _identified_sql(catalog: Catalog) -> str:
    schema = catalog.rows_schema()
    names = schema.names

    def text(name: str) -> str:
        return text_sql(f'"{name}"', schema.field(name).type) if name in names else "NULL::VARCHAR"

    named = f"'uri:' || {text('uri')}"
    image_id = f"coalesce('sha256:' || {text('sha256')}, {named})" if catalog.embedded else named
    marked = (
        f"coalesce({_mark(catalog)} || {text('fingerprint')}, {image_id})"
        if catalog.columns.fingerprint
        else image_id
    )
    newest = '"updated_at"' if "updated_at" in names else "NULL"
    labels = "".join(f", label_{i}" for i in range(len(catalog.labels)))
    labels += "".join(f", {sql} AS {ours}" for ours, sql in _extras_sql(catalog).items())
    where = 'file, "row"' if catalog.embedded else 'NULL::VARCHAR AS file, NULL::BIGINT AS "row"'
    return (
        f"SELECT illust_id, {page_sql(schema)}::INTEGER AS page, {text('uri')} AS uri, {where}, {marked} AS "
        "fingerprint, "
        f'coalesce({text("group")}, CAST(illust_id AS VARCHAR)) AS "group", {text("split")} AS '
        f"split{labels}, {newest} AS newest, "
        f"rowid AS position FROM incoming_rows WHERE illust_id IS NOT NULL"
    )


def _extras_sql(catalog: Catalog) -> dict[str, str]:
    """Our name -> SQL, of further columns: a source as text, a weight as a number, -1 where it is none."""
    schema, found = catalog.rows_schema(), {}
    for ours in catalog.extras:
        text = text_sql(f'"{ours}"', schema.field(ours).type)
        number = f"CASE WHEN {text} IS NOT NULL THEN coalesce(TRY_CAST({text} AS DOUBLE), -1) END"
        found[ours] = number if ours == WEIGHT else text
    return found


def page_sql(schema: pa.Schema) -> str:
    """The page as a number: 0 for none and for a blank; 2.0, "2" and "p2" are 2."""
    if "page" not in schema.names:
        return "0"
    kind = schema.field("page").type
    if pt.is_integer(kind):
        return "coalesce(CAST(page AS INTEGER), 0)"
    text = f"trim(trim({text_sql('page', kind)}), ' ' || chr(9) || chr(10) || chr(13))"
    wrong = f"error('page \"' || {text} || '\", expected 0, 1, 2 or p0, p1, p2')"
    return (
        f"CASE WHEN coalesce({text}, '') = '' THEN 0 WHEN regexp_full_match({text}, 'p?-?[0-9]+') THEN "
        f"CAST(ltrim({text}, 'p') AS INTEGER) "
        f"ELSE CAST({wrong} AS INTEGER) END"
    )


def _mark(catalog: Catalog) -> str:
    kind = catalog.fingerprint_kind.replace("'", "''")
    return f"'{kind}:'"


def stored_fingerprint_sql(catalog: Catalog, column: str) -> str:
    """SQL: what this version gives for a fingerprint ``column`` as earlier versions stored it: as DuckDB's
    own text of the type of then.

    They wrote ``etag:7.0`` for a float that is ``etag:7`` today, and ``etag:2026-01-01 00:00:00+00`` for
    ``etag:2026-01-01 00:00:00``. Texts stay as they are, and so does what this version wrote.
    """
    if not catalog.columns.fingerprint:
        return column
    field, mark = catalog.schema.field(catalog.columns.fingerprint), _mark(catalog)
    value = f"substr({column}, length({mark}) + 1)"
    today = stored_bytes_sql(value) if field.metadata else stored_text_sql(value, field.type)
    return (
        column
        if today == value
        else f"CASE WHEN starts_with({column}, {mark}) THEN {mark} || {today} ELSE {column} END"
    )
