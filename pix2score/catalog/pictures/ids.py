"""From the path of a picture to its id and page: the rules, and what is wrong with what they give."""

from __future__ import annotations

import re

import duckdb
import pyarrow as pa

from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.pictures.found import LeftOut
from pix2score.errors import ConfigError, DataError
from pix2score.storage.quoting import literal
from pix2score.storage.sql import in_memory, one_row

WHOLE_NUMBER = "0|[1-9][0-9]*"
"""Ids that are the same as text and, if that holds them, as int64."""
_STEM = r"regexp_replace(file, '([^/])\.[^./\\\s]{1,12}$', '\1')"
_PATH_STEM = r"regexp_replace(path, '([^/])\.[^./\\\s]{1,12}$', '\1')"
_WORK_PAGE = r"^([0-9]{1,18})_p([0-9]{1,6})(?:_.*)?$"
_NUMBER = r"([0-9]+)(?:_p([0-9]{1,6})(?:[^0-9]|$))?"
"""The first in a name, whole however long it is: of one that is too large no part is an id."""
_SHOWN = 3
_MEND = {
    "name": "--id path gives each file the id of its path, --id-pattern finds ids by a rule of yours",
    "number": "--id name or --id path tells them apart, --id-pattern finds ids by a rule of yours",
    "path": "they differ in their suffix alone: --suffix takes one of them",
}


def key_sql(config: CatalogConfig) -> tuple[str, str]:
    """SQL of columns ``path`` and ``file``: the id as text, and the page as text; empty for none."""
    if config.id_pattern is not None:
        groups = re.compile(config.id_pattern).groupindex
        pattern = literal(config.id_pattern)
        page = f"regexp_extract(path, {pattern}, {groups['page']})" if "page" in groups else "''"
        return f"regexp_extract(path, {pattern}, {groups['id']})", page
    if config.id == "path":
        return _PATH_STEM, "''"
    if config.id == "number":
        number = f"regexp_extract({_STEM}, '{_NUMBER}', 1)"
        plain = f"coalesce(CAST(TRY_CAST({number} AS BIGINT) AS VARCHAR), '')"
        return plain, f"regexp_extract({_STEM}, '{_NUMBER}', 2)"
    work = f"regexp_extract({_STEM}, '{_WORK_PAGE}', 1)"
    return (
        f"CASE WHEN {work} = '' THEN {_STEM} ELSE {work} END",
        f"regexp_extract({_STEM}, '{_WORK_PAGE}', 2)",
    )


def check_pattern(config: CatalogConfig) -> None:
    """Raise ``ConfigError`` for an id pattern that is no RE2."""
    if config.id_pattern is None:
        return
    try:
        in_memory(f"SELECT regexp_matches('', {literal(config.id_pattern)})")
    except duckdb.Error as exc:
        raise ConfigError(
            f"id_pattern {config.id_pattern!r}: RE2, which has neither lookaround nor backreferences, does "
            f"not take it: {str(exc).splitlines()[0]}"
        ) from None


def find_keys(connection: duckdb.DuckDBPyConnection, config: CatalogConfig, left_out: LeftOut) -> None:
    """Make table ``pictures`` of the pictures in ``listed`` with ``id`` (text) and ``page``; count those that
    have none.

    Raises ``DataError`` for two files of one key.
    """
    identity, page = key_sql(config)
    connection.execute(
        "CREATE TABLE pictures AS SELECT * EXCLUDE (note, reason, tag, changed, inode), tag AS fingerprint, "
        f"{identity} AS id, CASE WHEN {page} = '' THEN 0 ELSE TRY_CAST({page} AS INTEGER) END AS page "
        "FROM listed WHERE reason IS NULL"
    )
    nameless = "id = '' OR page IS NULL OR page < 0"
    number, example = one_row(connection, f"SELECT count(*), min(path) FROM pictures WHERE {nameless}")
    if number:
        left_out.add("no id in the name", number, f"such as {example}")
        connection.execute(f"DELETE FROM pictures WHERE {nameless}")
    _settle_same_keys(connection, config)


def _settle_same_keys(connection: duckdb.DuckDBPyConnection, config: CatalogConfig) -> None:
    if config.same_id == "refuse":
        check_once(connection, config)
        return
    connection.execute(
        "CREATE TABLE chosen AS SELECT * FROM pictures QUALIFY row_number() OVER (PARTITION BY id, page "
        "ORDER BY modified DESC, path DESC) = 1"
    )
    connection.execute("DROP TABLE pictures")
    connection.execute("ALTER TABLE chosen RENAME TO pictures")


def check_once(connection: duckdb.DuckDBPyConnection, config: CatalogConfig) -> None:
    """Raise ``DataError`` for several rows of one key in ``pictures`` (id, page, path): which, what to do."""
    twice = "FROM pictures GROUP BY id, page HAVING count(*) > 1"
    (number,) = one_row(connection, f"SELECT count(*) FROM (SELECT id {twice})")
    if not number:
        return
    shown = connection.execute(
        f"SELECT id, page, list(path ORDER BY path)[:3], count(*) {twice} ORDER BY id, page LIMIT {_SHOWN}"
    ).fetchall()
    text = "; ".join(
        f"{' and '.join(paths)}{' …' if count > len(paths) else ''} are both {identity} page {page}"
        for identity, page, paths, count in shown
    )
    more = f" (and {number - len(shown)} more)" if number > len(shown) else ""
    rule = config.id if config.id_pattern is None else "name"
    newest = "" if config.archives else "; --same-id newest takes the file written last"
    is_one_name = all(len(set(paths)) == 1 for _, _, paths, _ in shown)
    mend = "an archive has one name twice: write it anew" if is_one_name else _MEND[rule]
    raise DataError(f"several pictures with one id: {text}{more}; {mend}{newest}")


def id_type(connection: duckdb.DuckDBPyConnection, earlier: pa.DataType | None) -> pa.DataType:
    """int64 if every id in ``pictures`` is a whole number, else string; as in the catalog that is there.

    Raises ``DataError`` where that has numbers and a name has none: every picture would be a new one.
    """
    others, example = one_row(
        connection,
        "SELECT count(*), min(path) FROM pictures WHERE TRY_CAST(id AS BIGINT) IS NULL "
        f"OR NOT regexp_full_match(id, '{WHOLE_NUMBER}')",
    )
    if earlier is not None and pa.types.is_integer(earlier) and others:
        raise DataError(
            f"the ids of the catalog are whole numbers so far, and {others} names have another id, such as "
            f"{example}: all ids would become text, and every picture new; --id number leaves such names "
            "out, another --out makes a catalog anew"
        )
    return pa.string() if others or (earlier is not None and not pa.types.is_integer(earlier)) else pa.int64()
