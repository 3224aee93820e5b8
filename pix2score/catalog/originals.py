"""Original images of some keys of a catalog: to compare with prepared ones, to show in a report, to serve."""

from __future__ import annotations

import contextlib
import logging
import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.catalog import Catalog, Columns, open_catalog
from pix2score.catalog.contents import ImageRows
from pix2score.catalog.counts import PlanCounts
from pix2score.catalog.keys import Key
from pix2score.catalog.rows import PLAN_DISK_BYTES, drop_keyed, estimated_rows, load_keyed
from pix2score.errors import DataError, ImageFailure, StorageError
from pix2score.images.source import image_source
from pix2score.storage.sql import engine

logger = logging.getLogger(__name__)
LOOKUP_MEMORY_BYTES = 256 * 2**20
"""Of the engine that a lookup is made and asked by, however many rows the catalog has."""


def original_images(
    catalog: str, config: Mapping[str, Any], keys: Sequence[Key]
) -> dict[Key, bytes | ImageFailure]:
    """Content of each key that the catalog still has, as it is today; empty if the catalog cannot be read any
    more.

    ``config``: that of the job that read the catalog (``columns``, ``image_root``). One pass over the
    catalog's narrow columns.
    """
    wanted = set(keys)
    if not wanted:
        return {}
    try:
        opened = _opened(catalog, config)
        rows = [row for batch in opened.batches() for row in _rows_of(batch, wanted)]
    except (DataError, StorageError, FileNotFoundError) as exc:
        logger.info("original images are not at hand: %s", exc)
        return {}
    if not rows:
        return {}
    contents = _image_rows(opened, config).contents(pa.Table.from_pylist(rows))
    return {(row["illust_id"], row["page"]): content for row, content in zip(rows, contents, strict=True)}


class OriginalsLookup:
    """Where the image of each key of a catalog is, in a table on the disk of temporary files in order of the
    keys: made in one pass, then asked again and again, from several threads.

    Rows are those that a night would plan: of rows with one key the one that counts.
    """

    def __init__(self, catalog: str, config: Mapping[str, Any]) -> None:
        """Read the catalog; ``config`` as for ``original_images``.

        Raises ``DataError``, ``StorageError`` or ``ConfigError`` for a catalog that cannot be read, or a disk
        that is too small.
        """
        opened = _opened(catalog, config)
        if opened.hashes_images:  # where pictures are is asked, not what they are: that would read them all
            opened = replace(opened, columns=replace(opened.columns, fingerprint=opened.columns.id))
        self._images = _image_rows(opened, config)
        place = "file, row" if opened.embedded else "uri"
        with contextlib.ExitStack() as until_end:
            self._connection = until_end.enter_context(
                engine(
                    LOOKUP_MEMORY_BYTES,
                    disk_bytes=estimated_rows(opened) * PLAN_DISK_BYTES,
                    what="looking up pictures",
                    threads=1,
                )
            )
            load_keyed(self._connection, opened, PlanCounts())
            self._connection.execute(
                f"CREATE TABLE places AS SELECT illust_id, page, {place} FROM keyed ORDER BY illust_id, page"
            )
            drop_keyed(self._connection)
            # Not before the last who asks is done: another thread may be reading.
            self._closed = weakref.finalize(self, until_end.pop_all().close)

    def image(self, key: Key) -> bytes | ImageFailure | None:
        """Content of the key as it is today; None if the catalog does not have it."""
        try:
            with self._connection.cursor() as cursor:
                asked = "SELECT * FROM places WHERE illust_id = $1 AND page = $2"
                rows = cursor.sql(asked, params=list(key)).to_arrow_table()
        except duckdb.ConversionException:  # an id of another type
            return None
        return next(iter([*self._images.contents(rows)]), None)

    def close(self) -> None:
        """Remove the table, as also happens when nobody refers to this any more."""
        self._closed()


def _opened(catalog: str, config: Mapping[str, Any]) -> Catalog:
    columns = Columns(**config["columns"])
    # which of several catalogs it is, is not known: the others may lack what one has
    return open_catalog(catalog, columns, may_lack=[name for name in (columns.group, columns.split) if name])


def _image_rows(opened: Catalog, config: Mapping[str, Any]) -> ImageRows:
    return ImageRows.of(opened, image_source(opened.folder.uri, config.get("image_root", ())))


def _rows_of(batch: pa.RecordBatch, wanted: set[Key]) -> list[dict[str, Any]]:
    ids = pa.array([key[0] for key in wanted], batch.column("illust_id").type)
    found = batch.filter(pc.is_in(batch.column("illust_id"), ids)).to_pylist()
    rows = [
        {"uri": None, "file": None, "row": None} | row | {"page": _page(row.get("page"))} for row in found
    ]
    return [row for row in rows if (row["illust_id"], row["page"]) in wanted]


def _page(value: Any) -> int:
    """The page as the plan has it: a number or its digits, ``p0`` too; 0 for none and for a blank."""
    if isinstance(value, str):
        return int(value.strip().removeprefix("p") or 0)
    return 0 if value is None or math.isnan(value) else int(value)
