"""catalog: the pictures of a folder or bucket become a catalog that prepare and score read.

Out of core: names go from the listing into an embedded database and from there, sorted by key, into Parquet.
Nothing is written if nothing changed.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import duckdb
import pyarrow as pa

from pix2score.catalog.config import CatalogConfig
from pix2score.catalog.guards import BEING_WRITTEN
from pix2score.catalog.keys import KEY
from pix2score.catalog.pictures.embedded import Embedding
from pix2score.catalog.pictures.found import LeftOut, list_archives, list_place, no_pictures
from pix2score.catalog.pictures.ids import check_once, check_pattern, find_keys, id_type
from pix2score.catalog.pictures.kinds import picture_suffixes
from pix2score.catalog.pictures.labels import add_labels
from pix2score.catalog.pictures.out import (
    Counts,
    Out,
    check_room,
    count_changes,
    load_earlier,
    load_rows,
    marked,
    write_rows,
)
from pix2score.catalog.pictures.texts import Texts
from pix2score.catalog.pictures.uris import next_command, uri_sql
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import Summary, recorded
from pix2score.errors import DataError
from pix2score.storage.folder import Folder
from pix2score.storage.sql import engine, one_row
from pix2score.summaries import CatalogSummary

logger = logging.getLogger(__name__)
MEMORY_BYTES = 2**30
OWN = (*KEY, "uri", "size", "fingerprint", "modified")
"""Columns that every row has."""
OWN_EMBEDDED = (*KEY, "path", "size", "fingerprint", "modified")
DISK_BYTES = 2**28
"""Temporary disk that is looked for before it begins: 400,000 names or so."""


def catalog(config: CatalogConfig) -> CatalogSummary:
    """Write the catalog to ``config.out``, in place of what an earlier run wrote there; return what changed.

    Raises:
        AccessError: the place, or a folder in it, may not be listed.
        DataError: no picture there, two pictures with one key, labels that fit none, or an ``out`` that holds
            something else.
        ConfigError: an id pattern or a suffix that can be none; too many rows for one file.
    """
    images, out, suffixes = Folder(config.images), Out.at(config.out), picture_suffixes(config.suffix)
    check_pattern(config)
    facts = {"job": "catalog", "out": out.place, "images": images.uri}
    with (
        recorded(out.folder, out.summary_path, facts) as summary,
        engine(MEMORY_BYTES, disk_bytes=DISK_BYTES, what="listing pictures") as connection,
    ):
        began = datetime.now(UTC)
        left_out = list_place(connection, images, suffixes)
        make = _embedded if config.archives else _listed
        work = _Work(connection, config, images, out, suffixes, left_out, summary, began)
        counts, summary.is_written = make(work)
        left_out.log()
        logger.info(
            "%d pictures: %d new, %d changed, %d with other labels, %d removed since the last run",
            *(counts.pictures, counts.new, counts.changed, counts.updated, counts.removed),
        )
        summary.update(_told(counts), left_out=left_out.counts, config=as_plain(config))
        summary["next"] = next_command(images, out.place, out.folder, is_embedded=config.archives)
    return cast("CatalogSummary", summary)


def _told(counts: Counts) -> dict[str, Any]:
    rows = dataclasses.asdict(counts)
    return {"rows": {**rows, "unchanged": counts.unchanged}}


@dataclass(frozen=True, slots=True)
class _Work:
    """One run: what it is asked for, and where it is."""

    connection: duckdb.DuckDBPyConnection
    config: CatalogConfig
    images: Folder
    out: Out
    suffixes: tuple[str, ...]
    left_out: LeftOut
    summary: Summary
    began: datetime


def _listed(work: _Work) -> tuple[Counts, bool]:
    """A catalog that names the pictures by uri: its counts, and whether it was written."""
    connection, config, images, out = work.connection, work.config, work.images, work.out
    find_keys(connection, config, work.left_out)
    (number,) = one_row(connection, "SELECT count(*) FROM pictures")
    if not number:
        raise no_pictures(images, work.left_out, work.suffixes)
    check_room(out, number)
    is_half = out.is_half_written()
    earlier = load_earlier(connection, out, images.uri, OWN if is_half else (), archives=False)
    kind = id_type(connection, earlier.field(KEY[0]).type if earlier else None)
    texts = _texts(work, is_first=earlier is None)
    work.summary["labels"] = add_labels(connection, config)
    schema = _make_rows(connection, images, out, kind)
    counts = count_changes(connection, schema, earlier)
    is_as_before = not counts.is_any and not is_half and earlier is not None and _is_same(schema, earlier)
    if not is_as_before:
        write_rows(connection, out, schema)
    if texts:
        texts.keep()
    return counts, not is_as_before


def _texts(work: _Work, *, is_first: bool) -> Texts | None:
    """The texts beside the pictures, if they are asked for."""
    if work.config.tags_from_text is None:
        return None
    texts = Texts(work.connection, work.images, work.out, work.began)
    texts.find(is_first=is_first)
    work.summary["texts"] = texts.counts
    return texts


def _make_rows(
    connection: duckdb.DuckDBPyConnection, images: Folder, out: Out, kind: pa.DataType
) -> pa.Schema:
    """Make table ``made`` of ``pictures``, its columns as the catalog has them; return its schema."""
    sql_type = "BIGINT" if pa.types.is_integer(kind) else "VARCHAR"
    connection.execute(
        f"CREATE TABLE made AS SELECT CAST(id AS {sql_type}) AS illust_id, page, "
        f"{uri_sql(images, out.folder)} AS uri, size, fingerprint, modified, "
        f"* EXCLUDE (id, path, file, suffix, {', '.join(OWN[1:])}) FROM pictures"
    )
    found = connection.sql("FROM made LIMIT 0").to_arrow_table().schema
    fields = [field.with_nullable(field.name not in OWN[:5]) for field in found]
    return marked(pa.schema(fields), images.uri, archives=False)


def _is_same(schema: pa.Schema, earlier: pa.Schema) -> bool:
    return bool(schema.names == earlier.names and schema.types == earlier.types)


def _embedded(work: _Work) -> tuple[Counts, bool]:
    """A catalog that holds the pictures of the archives: its counts, and whether anything was written."""
    connection, out = work.connection, work.out
    archives = list_archives(connection)
    _tell_of_others(work, archives)
    was_half = out.is_half_written()
    earlier = load_earlier(connection, out, work.images.uri, OWN_EMBEDDED, archives=True)
    embedding = Embedding(work.config, work.images, out, work.suffixes, work.left_out)
    kept, missing = embedding.settle(archives)
    before = out.files()
    try:
        embedding.write(missing)
        known = earlier if set(kept) == set(before) else None
        made = _load_made(work, kept, embedding.written, known)
        if made is None:
            raise no_pictures(work.images, work.left_out, work.suffixes)
        _check_embedded(work, made, earlier)
    except BaseException:  # the catalog stays as it was
        out.folder.delete([*embedding.written, *([] if was_half else [BEING_WRITTEN])])
        raise
    work.summary["archives"] = {
        "read": len(missing),
        "kept": len(archives) - len(missing),
        "damaged": embedding.damaged,
    }
    stale = [path for path in before if path not in {*kept, *embedding.written}]
    is_written = bool(stale or embedding.written or was_half)
    if is_written:
        out.folder.publish(BEING_WRITTEN, b"", replace=True)
        out.folder.delete([*stale, BEING_WRITTEN])
    return count_changes(connection, made, earlier), is_written


def _load_made(
    work: _Work, kept: Sequence[str], written: Sequence[str], known: pa.Schema | None
) -> pa.Schema | None:
    """Make table ``made`` of the rows of the parts; ``known``: those of ``kept`` are table ``earlier``."""
    connection, folder = work.connection, work.out.folder
    if known is None:
        return load_rows(connection, "made", folder, [*kept, *written], OWN_EMBEDDED)
    added = load_rows(connection, "added", folder, written, OWN_EMBEDDED)
    more = "" if added is None else " UNION ALL FROM added"
    connection.execute(f"CREATE VIEW made AS FROM earlier{more}")
    return known if added is None else added


def _tell_of_others(work: _Work, archives: Sequence[tuple[str, str, int]]) -> None:
    """What lies beside the archives, and archives that are not read."""
    connection, left_out = work.connection, work.left_out
    number = left_out.counts.pop("archive", 0) - len(archives)
    if number:
        left_out.add("archive of a kind that is not read", number, "read are .tar, .tar.gz, .tgz and .zip")
    loose, example = one_row(connection, "SELECT count(*), min(path) FROM listed WHERE reason IS NULL")
    if loose:
        left_out.add("picture outside archives", loose, f"such as {example}; listed without --archives")


def _check_embedded(work: _Work, made: pa.Schema, earlier: pa.Schema | None) -> None:
    """Raise ``DataError`` for two pictures of one key, and for ids of another type than before."""
    work.connection.execute("CREATE VIEW pictures AS SELECT illust_id AS id, page, path FROM made")
    check_once(work.connection, work.config)
    now, before = made.field(KEY[0]).type, earlier.field(KEY[0]).type if earlier else None
    if before is not None and not before.equals(now):
        raise DataError(
            f"ids of the catalog are {before} so far and would be {now} by this --id: every picture would be "
            "new; give another --out"
        )
