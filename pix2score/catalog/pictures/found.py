"""Which pictures lie at a place, and what else does: tables ``listed`` and ``pictures`` of a database."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from pix2score.catalog.pictures.kinds import ARCHIVE, reason_sql, suffix_sql
from pix2score.errors import DataError
from pix2score.storage.folder import Folder
from pix2score.storage.listed import LISTED, ODD_KEY, everything_below
from pix2score.storage.places import is_s3
from pix2score.storage.sql import load, one_row

logger = logging.getLogger(__name__)
LOG_EVERY_S = 10.0
_EXAMPLES = 3
_ADVICE = {
    ODD_KEY: "keys with an empty part, '.', '..' or a control character: copy those objects to plain ones",
    "archive": "--archives lists the pictures inside tar and ZIP files",
    "name without suffix": "--suffix none takes names without one",
    "picture that is not decoded": "convert them, or name them by --suffix: they become failed rows",
    "link to a folder or to elsewhere": "give the link's target as --images",
}
_NOT_OF_UTF8 = (
    "%d names are no UTF-8, such as %s: they are listed by their bytes, and their ids have \\xNN for each "
    "such byte; rename them for plain ids (convmv -r -f latin1 -t utf8 --notest %s)"
)


@dataclass(slots=True)
class LeftOut:
    """Why files are no rows: reason -> how many, and for messages some examples."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, number: int, example: str) -> None:
        """Count ``number`` more."""
        self.counts[reason] = self.counts.get(reason, 0) + number
        self.examples.setdefault(reason, example)

    def log(self) -> None:
        """One line for each reason, with what can be done."""
        for reason, number in sorted(self.counts.items(), key=lambda item: -item[1]):
            advice = f"; {_ADVICE[reason]}" if reason in _ADVICE else ""
            logger.info("left out, %s: %d (%s)%s", reason, number, self.examples[reason], advice)

    def told(self) -> str:
        """All in one line."""
        counts = sorted(self.counts.items(), key=lambda item: -item[1])
        return ", ".join(f"{number} {reason} ({self.examples[reason]})" for reason, number in counts)

    def advice(self) -> str:
        """What can be done, in one line; empty if nothing is known."""
        return "".join(f"; {text}" for reason, text in _ADVICE.items() if reason in self.counts)


def list_place(connection: duckdb.DuckDBPyConnection, folder: Folder, suffixes: tuple[str, ...]) -> LeftOut:
    """Make table ``listed``: ``storage.listed``'s columns, ``file`` (the name), ``suffix`` and ``reason``
    (null for a picture); return what is left out.

    Raises ``DataError`` if nothing lies there; errors of the storage as ``everything_below`` does.
    """
    load(connection, "names", LISTED, _with_progress(folder))
    connection.execute(
        f"CREATE TABLE listed AS SELECT *, {reason_sql(suffixes)} AS reason FROM (SELECT *, {suffix_sql()} "
        "AS suffix FROM (SELECT *, regexp_extract(path, '[^/]*$') AS file FROM names))"
    )
    connection.execute("DROP TABLE names")
    if not one_row(connection, "SELECT count(*) FROM listed")[0]:
        raise _nothing(folder)
    left_out = LeftOut()
    for reason, number, suffixes_found, example in connection.execute(
        "SELECT reason, count(*), list(DISTINCT suffix ORDER BY suffix), min(path) FROM listed WHERE reason "
        "IS NOT NULL AND reason <> 'folder marker' GROUP BY reason"
    ).fetchall():
        endings = " ".join(f".{suffix}" for suffix in suffixes_found[:5] if suffix)
        left_out.add(reason, number, f"{endings} such as {example}".strip())
    _tell_of_names(connection, folder)
    return left_out


def no_pictures(folder: Folder, left_out: LeftOut, suffixes: tuple[str, ...]) -> DataError:
    """The error for a place that holds other things only."""
    endings = " ".join(f".{suffix}" if suffix else "no suffix" for suffix in suffixes)
    return DataError(
        f"no picture ({endings}) at {folder.uri}: there are {left_out.told() or 'only folders'}"
        f"{left_out.advice()}"
    )


def list_archives(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, str, int]]:
    """Path, tag and size of each archive that is read, by path."""
    return connection.execute(
        f"SELECT path, tag, size FROM listed WHERE reason = 'archive' AND regexp_matches(path, '{ARCHIVE}') "
        "AND uri IS NULL ORDER BY path"
    ).fetchall()


def _with_progress(folder: Folder) -> Iterator[pa.RecordBatch]:
    number, began = 0, time.monotonic()
    logged = began
    for batch in everything_below(folder):
        number += batch.num_rows
        now = time.monotonic()
        if now - logged > LOG_EVERY_S:
            logged = now
            logger.info("listed %d names below %s (%.0f/s)", number, folder.uri, number / (now - began))
        yield batch
    logger.info("listed %d names below %s in %.1f s", number, folder.uri, time.monotonic() - began)


def _nothing(folder: Folder) -> DataError:
    if is_s3(folder.uri):
        above = folder.parent.uri if folder.uri.count("/") > 2 else folder.uri
        return DataError(
            f"no object lies below {folder.uri}/: is the prefix spelt as in the bucket? (aws s3 ls {above}/ "
            "shows what is there)"
        )
    if folder.is_file():
        return DataError(f"{folder.uri} is a file; --images takes the folder that it lies in")
    is_there = folder.fs.isdir(folder.uri)
    return DataError(f"the folder {folder.uri} {'is empty' if is_there else 'does not exist'}")


def _tell_of_names(connection: duckdb.DuckDBPyConnection, folder: Folder) -> None:
    number, example = one_row(
        connection, "SELECT count(*), min(path) FROM listed WHERE uri IS NOT NULL AND reason IS NULL"
    )
    if number:
        logger.warning(_NOT_OF_UTF8, number, example, folder.uri)
