"""Labels of the pictures in table ``pictures``, each a further column: from folders, a table, and tables
``beside`` and ``texts`` of the texts beside the pictures."""

from __future__ import annotations

import logging

import duckdb

from pix2score.catalog.config import OWN_COLUMNS, CatalogConfig
from pix2score.errors import ConfigError, DataError
from pix2score.host.scratch import scratch_folder
from pix2score.storage.folder import Folder
from pix2score.storage.quoting import identifier, literal
from pix2score.storage.sql import one_row

logger = logging.getLogger(__name__)
_KEYS = ("illust_id", "id", "path", "file", "file_name", "filename", "name", "image")
_READERS = {
    "csv": "read_csv(PATH, header=true, sample_size=-1TYPES)",
    "tsv": "read_csv(PATH, header=true, sample_size=-1, delim='\t'TYPES)",
    "jsonl": "read_json(PATH, format='newline_delimited', sample_size=-1)",
    "ndjson": "read_json(PATH, format='newline_delimited', sample_size=-1)",
    "json": "read_json(PATH, sample_size=-1)",
    "parquet": "read_parquet(PATH)",
}
_NESTED = ("STRUCT", "MAP", "UNION", "JSON", "VARIANT")
_MATCH = '"the name in --labels"'
"""Column of a table, beside its own: the key as text."""
_WAYS = {
    "id": f"p.id = t.{_MATCH} AND {{page}}",
    "path": f"p.path = t.{_MATCH}",
    "file name": f"p.file = t.{_MATCH}",
    "file name without suffix": rf"regexp_replace(p.file, '([^/])\.[^./\\\s]{{1,12}}$', '\1') = t.{_MATCH}",
}
"""How a row of a table may name a picture."""


def add_labels(connection: duckdb.DuckDBPyConnection, config: CatalogConfig) -> dict[str, dict[str, int]]:
    """Add the columns that are asked for to ``pictures``; return by source how many rows have one, and how
    many of both sides have no match."""
    counts = {}
    if config.label_from_folder is not None:
        counts["folder"] = _from_folders(connection, config.label_from_folder)
    if config.labels is not None:
        counts["table"] = _from_table(connection, config)
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


def _from_table(connection: duckdb.DuckDBPyConnection, config: CatalogConfig) -> dict[str, int]:
    """Join a table of labels, by what fits most of its rows."""
    place = config.labels or ""
    key, names = _load_table(connection, place, config.labels_key)
    page = next((name for name in names if name.lower() == "page" and name != key), None)
    columns = _label_columns(connection, (key, page), config)
    same_page = (
        f"(t.{identifier(page)} IS NULL OR TRY_CAST(t.{identifier(page)} AS INTEGER) = p.page)"
        if page
        else "true"
    )
    way, condition = _way(connection, key, same_page, place)
    _check_once(connection, condition, place, key)
    unmatched, example = one_row(
        connection,
        f"SELECT count(*), min({_MATCH}) FROM asked t WHERE NOT EXISTS (FROM pictures p WHERE {condition})",
    )
    listed = ", ".join(f"t.{identifier(name)}" for name in columns)
    _replace(
        connection,
        f"SELECT p.*, {listed}, t.{_MATCH} FROM pictures p LEFT JOIN asked t ON {condition}",
    )
    labelled, bare, bare_example = one_row(
        connection,
        f"SELECT count({_MATCH}), count(*) - count({_MATCH}), min(path) FILTER ({_MATCH} IS NULL) "
        "FROM pictures",
    )
    connection.execute(f"ALTER TABLE pictures DROP COLUMN {_MATCH}")
    logger.info("--labels %s, by %s: %d pictures have a row of it", place, way, labelled)
    if bare:
        logger.info("%d pictures have none, such as %s", bare, bare_example)
    if unmatched:
        logger.warning("--labels: %d rows name no picture here, such as %r", unmatched, example)
    return {"labelled": labelled, "unlabelled": bare, "rows_without_picture": unmatched}


def _label_columns(
    connection: duckdb.DuckDBPyConnection, keys: tuple[str | None, ...], config: CatalogConfig
) -> list[str]:
    """Those of table ``asked`` that a catalog can have. Raises ``DataError`` if there are none."""
    kinds = {name: kind for name, kind, *_ in connection.execute("DESCRIBE asked").fetchall()}
    further = [name for name in kinds if name not in keys]
    taken = {name for (name,) in connection.execute("SELECT column_name FROM (DESCRIBE pictures)").fetchall()}
    others = {name.lower() for name in (*taken, *OWN_COLUMNS, config.tags_from_text or "")}
    left = [name for name in further if name.lower() in others or kinds[name].startswith(_NESTED)]
    if left:
        logger.warning(
            "--labels %s: left out, as they are nested or the catalog has a column of that name: %s",
            config.labels,
            ", ".join(left),
        )
    if len(left) == len(further):
        raise DataError(f"--labels {config.labels}: it has no column of labels, only {', '.join(kinds)}")
    return [name for name in further if name not in left]


def _load_table(
    connection: duckdb.DuckDBPyConnection, place: str, asked: str | None
) -> tuple[str, list[str]]:
    """Make table ``asked`` of the file at ``place``, which is copied for DuckDB; return the column that names
    the picture, and all."""
    whole = Folder(place)
    parts = whole.name.lower().split(".")[1:]
    kind = next((part for part in reversed(parts) if part not in ("gz", "zst")), "")
    if kind not in _READERS:
        raise ConfigError(f"labels {place}: expected a file .csv, .tsv, .jsonl, .json or .parquet")
    try:
        data = whole.parent.read(whole.name)
    except FileNotFoundError:
        raise DataError(f"--labels {place}: no such file") from None
    with scratch_folder(2 * len(data), "a table of labels") as folder:
        path = folder / f"labels.{'.'.join(parts)}"
        path.write_bytes(data)
        try:
            return _read_table(connection, _READERS[kind].replace("PATH", literal(str(path))), place, asked)
        except duckdb.Error as exc:
            text = str(exc).splitlines()[0].replace(str(path), place)
            raise DataError(f"--labels {place} cannot be read as {kind}: {text}") from None


def _read_table(
    connection: duckdb.DuckDBPyConnection, reader: str, place: str, asked: str | None
) -> tuple[str, list[str]]:
    names = _names(connection, reader.replace("TYPES", ""))
    key = _key_column(names, asked, place)
    as_text = f", types={{{literal(key)}: 'VARCHAR'}}"  # 007 is no number
    connection.execute(f"CREATE TABLE asked AS FROM {reader.replace('TYPES', as_text)}")
    return key, names


def _names(connection: duckdb.DuckDBPyConnection, source: str) -> list[str]:
    return [name for name, *_ in connection.execute(f"DESCRIBE FROM {source}").fetchall()]


def _key_column(names: list[str], asked: str | None, place: str) -> str:
    if asked is not None and asked in names:
        return asked
    found = next((name for usual in _KEYS for name in names if name.lower() == usual), None)
    if asked is not None or found is None:
        what = f"has no column {asked!r}" if asked else "has no column that names the picture"
        raise ConfigError(
            f"--labels {place} {what}; --labels-key NAME says which it is; it has {', '.join(names)}"
        )
    return found


def _way(connection: duckdb.DuckDBPyConnection, key: str, same_page: str, place: str) -> tuple[str, str]:
    """The way that fits most rows, and its condition; adds column ``_MATCH`` to ``asked``."""
    connection.execute(
        "CREATE OR REPLACE TABLE asked AS SELECT *, "
        f"regexp_replace(CAST({identifier(key)} AS VARCHAR), '^\\./', '') AS {_MATCH} "
        f"FROM asked WHERE {identifier(key)} IS NOT NULL"
    )
    fits = {}
    for way, text in _WAYS.items():
        condition = text.replace("{page}", same_page)
        (number,) = one_row(
            connection, f"SELECT count(*) FROM asked t WHERE EXISTS (FROM pictures p WHERE {condition})"
        )
        fits[way] = (number, condition)
    way = max(fits, key=lambda name: fits[name][0])
    if not fits[way][0]:
        (row,) = one_row(connection, f"SELECT min({_MATCH}) FROM asked")
        (path, identity) = one_row(connection, "SELECT min(path), min_by(id, path) FROM pictures")
        raise DataError(
            f"--labels {place}: column {key} names no picture, neither by id nor by file: it holds such as "
            f"{row!r}, and a picture is {path!r} with id {identity!r}; --labels-key NAME takes another column"
        )
    return way, fits[way][1]


def _check_once(connection: duckdb.DuckDBPyConnection, condition: str, place: str, key: str) -> None:
    """Raise ``DataError`` if several rows name one picture, unless they are alike."""
    connection.execute("CREATE OR REPLACE TABLE asked AS SELECT DISTINCT * FROM asked")
    (number, example) = one_row(
        connection,
        f"SELECT count(*), min(path) FROM (SELECT p.path FROM pictures p JOIN asked t ON {condition} "
        "GROUP BY p.id, p.page, p.path HAVING count(*) > 1)",
    )
    if number:
        raise DataError(
            f"--labels {place}: several different rows name one picture, {number} times, such as {example} "
            f"(column {key}): leave one row of each"
        )


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
