"""Labels of the pictures in table ``pictures``, each a further column: from folders, a table, and tables
``beside`` and ``texts`` of the texts beside the pictures."""

from __future__ import annotations

import logging

import duckdb

from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.pictures.table import add_table
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import one_row

logger = logging.getLogger(__name__)


def add_labels(connection: duckdb.DuckDBPyConnection, config: CatalogConfig) -> dict[str, dict[str, int]]:
    """Add the columns that are asked for to ``pictures``; return by source how many rows have one, and how
    many of both sides have no match."""
    counts = {}
    if config.label_from_folder is not None:
        counts["folder"] = _from_folders(connection, config.label_from_folder)
    if config.labels is not None:
        own = [config.tags_from_text] if config.tags_from_text is not None else []
        counts["table"] = add_table(connection, config.labels, config.labels_key, own)
    if config.tags_from_text is not None:
        counts["text"] = _from_texts(connection, config.tags_from_text)
    return counts


def _replace(connection: duckdb.DuckDBPyConnection, select: str) -> None:
    connection.execute(f"CREATE TABLE labelled AS {select}")
    connection.execute("DROP TABLE pictures")
    connection.execute("ALTER TABLE labelled RENAME TO pictures")


def _from_folders(connection: duckdb.DuckDBPyConnection, column: str) -> dict[str, int]:
    first = "CASE WHEN contains(path, '/') THEN regexp_extract(path, '^[^/]*') END"
    _replace(connection, f"SELECT *, {first} AS {identifier(column)} FROM pictures")
    rows = connection.execute(
        f"SELECT {identifier(column)}, count(*) FROM pictures GROUP BY 1 ORDER BY 2 DESC, 1"
    ).fetchall()
    found = {name: number for name, number in rows if name is not None}
    shown = ", ".join(f"{name} {number}" for name, number in list(found.items())[:20])
    logger.info("column %s from folders: %s", column, shown or "no picture lies in a folder")
    return {
        "labelled": sum(found.values()),
        "unlabelled": sum(number for name, number in rows if name is None),
        "values": len(found),
    }


def _from_texts(connection: duckdb.DuckDBPyConnection, column: str) -> dict[str, int]:
    _replace(
        connection,
        f"SELECT p.*, t.tags AS {identifier(column)} FROM pictures p LEFT JOIN beside b ON p.path = b.of "
        "LEFT JOIN texts t ON b.text_path = t.text_path",
    )
    tagged, bare = one_row(
        connection,
        f"SELECT count({identifier(column)}), count(*) - count({identifier(column)}) FROM pictures",
    )
    logger.info("column %s from texts: %d pictures have one, %d have none", column, tagged, bare)
    return {"labelled": tagged, "unlabelled": bare}
