"""A table of labels joined to the pictures in table ``pictures``, by what its rows name.

``table_file`` reads it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import duckdb

from pix2score.catalog.config import OWN_COLUMNS
from pix2score.catalog.pictures.table_file import load_table
from pix2score.errors import DataError
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import one_row

logger = logging.getLogger(__name__)
_NESTED = ("STRUCT", "MAP", "UNION")
_MATCH = '"\u2192"'
"""Column of what a row names, as text: called as no label is."""
_NAMES = {
    "path": "p.path",
    "file name": "p.file",
    "file name without suffix": r"regexp_replace(p.file, '([^/])\.[^./\\\s]{1,12}$', '\1')",
}
_WAYS = {
    "id": f"p.id = t.{_MATCH} AND {{page}}",
    **{way: f"{name} = t.{_MATCH}" for way, name in _NAMES.items()},
    **{
        f"{way}, accents composed": f"nfc_normalize({name}) = nfc_normalize(t.{_MATCH})"
        for way, name in _NAMES.items()
    },
}
"""How a row of a table may name a picture. A Mac takes letters and their accents apart in names of files,
most tables do not."""


def add_table(
    connection: duckdb.DuckDBPyConnection, place: str, asked: str | None, taken: Sequence[str]
) -> dict[str, int]:
    """Join a table of labels to ``pictures``, by what fits most of its rows; return how many rows have one,
    and how many of both sides have no match.

    ``asked``: the column that names the picture, None for a usual one. ``taken``: names that a label cannot
    have, as other sources give them.

    Raises:
        ConfigError: no such column, or a file of another kind.
        DataError: the file is damaged or has no label, its rows name no picture, or several name one.
    """
    key, names = load_table(connection, place, asked)
    page = next((name for name in names if name.lower() == "page" and name != key), None)
    columns = _label_columns(connection, (key, page), place, taken)
    way, condition = _way(connection, key, _same_page_sql(page), place)
    _check_once(connection, condition, place, key)
    unmatched, example = one_row(
        connection,
        f"SELECT count(*), min({_MATCH}) FROM asked t WHERE NOT EXISTS (FROM pictures p WHERE {condition})",
    )
    labelled, bare, bare_example = _join(connection, columns, condition)
    logger.info("--labels %s, by %s: %d pictures have a row of it", place, way, labelled)
    if bare:
        logger.info("%d pictures have none, such as %s", bare, bare_example)
    if unmatched:
        logger.warning("--labels: %d rows name no picture here, such as %r", unmatched, example)
    return {"labelled": labelled, "unlabelled": bare, "rows_without_picture": unmatched}


def _same_page_sql(page: str | None) -> str:
    """SQL: whether a row is of the picture's page; true where it names none."""
    if page is None:
        return "true"
    name = f"t.{identifier(page)}"
    is_none = f"coalesce(trim(CAST({name} AS VARCHAR)), '') = ''"
    return f"({is_none} OR TRY_CAST({name} AS INTEGER) = p.page)"


def _join(
    connection: duckdb.DuckDBPyConnection, columns: Sequence[str], condition: str
) -> tuple[int, int, str | None]:
    """Add ``columns`` of ``asked`` to ``pictures``; how many have a row, how many none, and one of those."""
    listed = ", ".join(f"t.{identifier(name)}" for name in columns)
    connection.execute(
        f"CREATE TABLE labelled AS SELECT p.*, {listed}, t.{_MATCH} FROM pictures p "
        f"LEFT JOIN asked t ON {condition}"
    )
    connection.execute("DROP TABLE pictures")
    connection.execute("ALTER TABLE labelled RENAME TO pictures")
    labelled, bare, example = one_row(
        connection,
        f"SELECT count({_MATCH}), count(*) - count({_MATCH}), min(path) FILTER ({_MATCH} IS NULL) "
        "FROM pictures",
    )
    connection.execute(f"ALTER TABLE pictures DROP COLUMN {_MATCH}")
    return labelled, bare, example


def _label_columns(
    connection: duckdb.DuckDBPyConnection, keys: tuple[str | None, ...], place: str, taken: Sequence[str]
) -> list[str]:
    """Those of table ``asked`` that a catalog can have. Raises ``DataError`` if there are none."""
    kinds = {name: kind for name, kind, *_ in connection.execute("DESCRIBE asked").fetchall()}
    further = [name for name in kinds if name not in keys]
    there = [name for name, *_ in connection.execute("DESCRIBE pictures").fetchall()]
    folded = {name.casefold() for name in (*taken, *there, *OWN_COLUMNS)}
    left = [name for name in further if name.casefold() in folded or kinds[name].startswith(_NESTED)]
    if left:
        logger.warning(
            "--labels %s: left out, as they are nested or the catalog has a column of that name: %s",
            place,
            ", ".join(left),
        )
    if len(left) == len(further):
        raise DataError(f"--labels {place}: it has no column of labels, only {', '.join(kinds)}")
    return [name for name in further if name not in left]


def _way(connection: duckdb.DuckDBPyConnection, key: str, same_page: str, place: str) -> tuple[str, str]:
    """The way that fits most rows, and its condition; adds ``_MATCH`` to ``asked``, the key as text."""
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
        (row, number) = one_row(connection, f"SELECT min({_MATCH}), count(*) FROM asked")
        if not number:
            raise DataError(f"--labels {place}: no row has a value in column {key}")
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
