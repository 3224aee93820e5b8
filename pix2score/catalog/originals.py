"""Original images of some keys of a catalog: to compare with prepared ones, and to show in a report."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.contents import ImageRows
from pix2score.catalog.keys import Key
from pix2score.errors import DataError, ImageFailure, StorageError
from pix2score.images.source import image_source

logger = logging.getLogger(__name__)


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
        columns = Columns(**config["columns"])
        # which of several catalogs it is, is not known: the others may lack what one has
        opened = open_catalog(
            catalog, columns, may_lack=[name for name in (columns.group, columns.split) if name]
        )
        rows = [row for batch in opened.batches() for row in _rows_of(batch, wanted)]
    except (DataError, StorageError, FileNotFoundError) as exc:
        logger.info("original images are not at hand: %s", exc)
        return {}
    if not rows:
        return {}
    images = ImageRows.of(opened, image_source(opened.folder.uri, config.get("image_root", ())))
    contents = images.contents(pa.Table.from_pylist(rows))
    return {(row["illust_id"], row["page"]): content for row, content in zip(rows, contents, strict=True)}


def _rows_of(batch: pa.RecordBatch, wanted: set[Key]) -> list[dict[str, Any]]:
    ids = pa.array([key[0] for key in wanted], batch.column("illust_id").type)
    found = batch.filter(pc.is_in(batch.column("illust_id"), ids)).to_pylist()
    rows = [
        {"uri": None, "file": None, "row": None} | row | {"page": _page(row.get("page"))} for row in found
    ]
    return [row for row in rows if (row["illust_id"], row["page"]) in wanted]


def _page(value: Any) -> int:
    """The page as the plan has it: a number or its digits, ``p0`` too; 0 for none."""
    if isinstance(value, str):
        return int(value.strip().removeprefix("p"))
    return 0 if value is None or math.isnan(value) else int(value)
