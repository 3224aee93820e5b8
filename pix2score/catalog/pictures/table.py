"""A table of labels, as CSV, JSON lines or Parquet, joined to the pictures in table ``pictures``.

Text is read as a catalog of text is: the same rules, and the line that is wrong.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence

import duckdb
import pyarrow as pa

from pix2score.catalog.config import OWN_COLUMNS
from pix2score.catalog.text.converted import converted
from pix2score.catalog.text.names import is_text_table
from pix2score.errors import AccessError, ConfigError, DataError
from pix2score.host.scratch import scratch_folder
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import BATCH_ROWS
from pix2score.storage.quoting import identifier, literal
from pix2score.storage.sql import load, one_row

logger = logging.getLogger(__name__)
_KEYS = ("illust_id", "id", "path", "file", "file_name", "filename", "name", "image")
_KINDS = ("csv", "tsv", "jsonl", "ndjson", "json", "parquet")
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
    key, names = _load_table(connection, place, asked)
    page = next((name for name in names if name.lower() == "page" and name != key), None)
    columns = _label_columns(connection, (key, page), place, taken)
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
    connection.execute(
        f"CREATE TABLE labelled AS SELECT p.*, {listed}, t.{_MATCH} FROM pictures p "
        f"LEFT JOIN asked t ON {condition}"
    )
    connection.execute("DROP TABLE pictures")
    connection.execute("ALTER TABLE labelled RENAME TO pictures")
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


def _load_table(
    connection: duckdb.DuckDBPyConnection, place: str, asked: str | None
) -> tuple[str, list[str]]:
    """Make table ``asked`` of the file at ``place``; return the column that names the picture, and all."""
    whole = Folder(place)
    parts = whole.name.lower().split(".")[1:]
    kind = next((part for part in reversed(parts) if part not in ("gz", "zst")), "")
    if kind not in _KINDS:
        raise ConfigError(f"labels {place}: expected a file .csv, .tsv, .jsonl, .json or .parquet")
    try:
        with _as_table(whole, kind) as (folder, name):
            load = _load_text if is_text_table(name) else _load_parquet
            return load(connection, folder, name, place, asked)
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"--labels {place}: no such file") from None
    except (DataError, duckdb.Error) as exc:
        if isinstance(exc, AccessError):
            raise
        text = str(exc).splitlines()[0].removeprefix(f"{whole.uri}: ")
        raise DataError(f"--labels {place} cannot be read as {kind}: {text}") from None


@contextlib.contextmanager
def _as_table(whole: Folder, kind: str) -> Iterator[tuple[Folder, str]]:
    """A file of the same rows that is read as it is: text, or Parquet on this disk."""
    if is_text_table(whole.name):
        yield whole.parent, whole.name
        return
    data = whole.parent.read(whole.name)
    if whole.name.lower().endswith(".zst"):
        data = pa.input_stream(pa.py_buffer(data), compression="zstd").read()
    name = f"labels.{'jsonl' if kind == 'json' else kind}"
    with scratch_folder(2 * len(data), "a table of labels") as folder:
        (folder / name).write_bytes(_as_lines(data) if kind == "json" else data)
        try:
            yield Folder(str(folder)), name
        except (DataError, duckdb.Error) as exc:
            raise DataError(str(exc).replace(f"{folder}/{name}", whole.uri)) from None


def _as_lines(data: bytes) -> bytes:
    """JSON, a list of objects or one object a line, as the latter."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return data
    rows = found if isinstance(found, list) else [found]
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _load_parquet(
    connection: duckdb.DuckDBPyConnection, folder: Folder, name: str, place: str, asked: str | None
) -> tuple[str, list[str]]:
    connection.execute(f"CREATE TABLE asked AS FROM read_parquet({literal(folder.full(name))})")
    names = [name for name, *_ in connection.execute("DESCRIBE asked").fetchall()]
    return _key_column(names, asked, place), names


def _load_text(
    connection: duckdb.DuckDBPyConnection, folder: Folder, name: str, place: str, asked: str | None
) -> tuple[str, list[str]]:
    """As ``_load_table``; the key of CSV stays text: 007 is no number."""
    with converted(folder, folder.entry(name)) as view:
        shown = view.schema_arrow
        _check_names(shown.names)
        key = _key_column(shown.names, asked, place)
        texts = {field.name for field in shown if pa.types.is_null(field.type)}
        texts |= {key} if view.shown is not None else set()
        schema = pa.schema(
            [pa.field(field.name, pa.string() if field.name in texts else field.type) for field in shown]
        )
        batches = (batch.cast(schema) for batch in view.iter_batches(BATCH_ROWS))
        load(connection, "asked", schema, batches)
    return key, shown.names


def _check_names(names: Sequence[str]) -> None:
    """Raise ``DataError`` for names that differ in case alone, which SQL takes for one."""
    counts = Counter(name.casefold() for name in names)
    twice = [name for name in names if counts[name.casefold()] > 1]
    if twice:
        raise DataError(f"columns {', '.join(twice)} differ in upper and lower case alone; rename them")


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
