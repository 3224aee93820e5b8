"""Labels of the pictures in table ``pictures``, each a further column: from folders, a table, and texts
beside the pictures."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import duckdb
import pyarrow as pa

from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.pictures.table import add_table
from pix2score.storage.folder import Folder
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import load, one_row, side_by_side

logger = logging.getLogger(__name__)
TEXTS_AT_ONCE = 1_024
MAX_TEXT_BYTES = 2**20
_TEXTS = pa.schema([pa.field("text_path", pa.string()), pa.field("tags", pa.list_(pa.string()))])


def add_labels(
    connection: duckdb.DuckDBPyConnection, config: CatalogConfig, folder: Folder
) -> dict[str, dict[str, int]]:
    """Add the columns that are asked for to ``pictures``; return by source how many rows have one, and how
    many of both sides have no match."""
    counts = {}
    if config.label_from_folder is not None:
        counts["folder"] = _from_folders(connection, config.label_from_folder)
    if config.labels is not None:
        own = [config.tags_from_text] if config.tags_from_text is not None else []
        counts["table"] = add_table(connection, config.labels, config.labels_key, own)
    if config.tags_from_text is not None:
        counts["text"] = _from_texts(connection, config.tags_from_text, folder)
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


def _from_texts(connection: duckdb.DuckDBPyConnection, column: str, folder: Folder) -> dict[str, int]:
    stem = r"regexp_replace(path, '([^/])\.[^./\\\s]{1,12}$', '\1')"
    connection.execute(
        "CREATE TABLE beside AS SELECT path AS of, text_path FROM ("
        f"SELECT path, {stem} || '.txt' AS text_path FROM pictures UNION "
        "SELECT path, path || '.txt' FROM pictures) JOIN (SELECT path AS text_path FROM listed "
        "WHERE reason = 'text beside pictures' AND suffix = 'txt' AND uri IS NULL AND size <= "
        f"{MAX_TEXT_BYTES}) USING (text_path) "
        "QUALIFY row_number() OVER (PARTITION BY path ORDER BY text_path DESC) = 1"
    )
    load(connection, "texts", _TEXTS, _read_texts(connection, folder))
    _replace(
        connection,
        f"SELECT p.*, texts.tags AS {identifier(column)} FROM pictures p "
        "LEFT JOIN beside ON p.path = beside.of LEFT JOIN texts ON texts.text_path = beside.text_path",
    )
    tagged, bare = one_row(
        connection,
        f"SELECT count({identifier(column)}), count(*) - count({identifier(column)}) FROM pictures",
    )
    logger.info("column %s from texts: %d pictures have one, %d have none", column, tagged, bare)
    return {"labelled": tagged, "unlabelled": bare}


def _read_texts(connection: duckdb.DuckDBPyConnection, folder: Folder) -> Iterator[pa.RecordBatch]:
    paths = connection.cursor().execute("SELECT DISTINCT text_path FROM beside ORDER BY 1")
    chunks = iter(lambda: [path for (path,) in paths.fetchmany(TEXTS_AT_ONCE)], [])
    for contents in side_by_side(folder.read_many, chunks, num_threads=1):
        tags = [tags_of(data) for data in contents.values()]
        yield pa.record_batch(
            [pa.array(list(contents), pa.string()), pa.array(tags, _TEXTS.field("tags").type)], schema=_TEXTS
        )


def tags_of(data: bytes) -> list[str]:
    """The tags of a text: separated by commas or line ends, each once, in their order."""
    text = data.decode("utf-8-sig", errors="replace").replace("\r", "\n").replace("\n", ",")
    return [tag for tag in dict.fromkeys(part.strip() for part in text.split(",")) if tag]
