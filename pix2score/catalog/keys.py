"""The key of an illustration: id and page."""

from __future__ import annotations

from typing import TypeAlias

import pyarrow as pa

Id: TypeAlias = int | str
Key: TypeAlias = tuple[Id, int]
KEY = ("illust_id", "page")
"""Names of the columns of a key."""


def key_fields(id_type: pa.DataType) -> list[pa.Field]:
    """The two columns of a key; ``id_type`` is int64 or string, as in the catalog."""
    return [pa.field("illust_id", id_type, nullable=False), pa.field("page", pa.int32(), nullable=False)]
