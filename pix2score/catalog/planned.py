"""How the rows of a plan look, and in which order they are worked on."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.keys import key_fields


def order_sql(catalog: Catalog) -> str:
    """Order of work: by hash of the key, so that any part is a random sample; embedded images as they lie,
    file by hash."""
    ties = "" if catalog.embedded else ", illust_id, page"
    return f"ORDER BY {', '.join(order_terms(catalog))}{ties}"


def order_terms(catalog: Catalog) -> list[str]:
    """Terms of ``order_sql``, but for those that hardly any two rows need."""
    if catalog.embedded:
        return ["md5_number_lower(file)", "file", '"row"']
    return ["md5_number_lower(concat_ws('/', illust_id, page))"]


def plan_schema(
    id_type: pa.DataType,
    label_types: Sequence[tuple[str, pa.DataType]] = (),
    further: Sequence[pa.Field] = (),
) -> pa.Schema:
    """One row per illustration to be worked on.

    ``uri`` names the image, or ``file`` and ``row`` the catalog file (relative path) and row that embed it.
    ``fingerprint`` is ``kind:value``. ``group`` and ``split`` and the raw labels ``<h>_label`` are for
    prepare, and so are ``further`` fields.
    """
    labels = [pa.field(f"{head}_label", t) for head, t in label_types]
    return pa.schema(
        [
            *key_fields(id_type),
            pa.field("uri", pa.string()),
            pa.field("file", pa.string()),
            pa.field("row", pa.int64()),
            pa.field("fingerprint", pa.string()),
            pa.field("group", pa.string()),
            pa.field("split", pa.string()),
            *labels,
            *further,
        ]
    )
