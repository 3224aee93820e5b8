"""Conditions on keys, as DataFusion's SQL has them: what LanceDB and Delta tables are asked by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pyarrow as pa

from pix2score.catalog.keys import Id, Key
from pix2score.storage.quoting import literal

_KEYS_AT_ONCE = 5_000
_SMALLEST = -(2**63)


def value_sql(illust_id: Id) -> str:
    """An id as SQL."""
    if isinstance(illust_id, str):
        return literal(illust_id)
    # The smallest one is read as a minus before what is one too large.
    return f"({illust_id + 1} - 1)" if illust_id == _SMALLEST else str(illust_id)


def in_range(after: Key | None, upto: Key | None, table: str = "") -> str:
    """Keys behind ``after`` up to ``upto``; None: without that bound."""
    column = f"{table}." if table else ""
    parts = []
    for key, sign, sign_page in ((after, ">", ">"), (upto, "<", "<=")):
        if key:
            value = value_sql(key[0])
            parts.append(
                f"({column}illust_id {sign} {value} OR "
                f"({column}illust_id = {value} AND {column}page {sign_page} {key[1]}))"
            )
    return " AND ".join(parts) or "true"


def key_groups(keys: pa.Table) -> Iterator[str]:
    """Conditions that together hold for exactly the given keys, some thousands in each."""
    for start in range(0, keys.num_rows, _KEYS_AT_ONCE):
        by_page = defaultdict[int, list[str]](list)
        some = keys.slice(start, _KEYS_AT_ONCE)
        for illust_id, page in zip(
            *(some.column(name).to_pylist() for name in keys.column_names), strict=True
        ):
            by_page[page].append(value_sql(illust_id))
        yield " OR ".join(
            f"(page = {page} AND illust_id IN ({', '.join(ids)}))" for page, ids in by_page.items()
        )
