"""In what order a night's rows are scored: as asked for, by what has waited, else by hash of the key."""

from __future__ import annotations

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.rows import order_sql
from pix2score.nightly.request import ScoringRequest

_RANKS = {
    "waiting first": ("changed", "stale", "full", "waiting", "new", "retry"),
    "new first": ("new", "waiting", "changed", "stale", "full", "retry"),
}


def in_order(rows: str, catalog: Catalog, request: ScoringRequest) -> str:
    """SQL: ``rows``, which are of table ``wanted``, in the order of work.

    Where new ones come first, the day decides on which the live snapshot scored them: what came last to a
    catalog that another model scores every night. In a night that may not get to the end, a row comes last
    that an earlier run staged as failed: it would be tried at the beginning of every night otherwise.
    """
    by_hash = order_sql(catalog)
    first = [request.first.sql(catalog)] if request.first else []
    ranks = _RANKS.get(request.order)
    if not first and not ranks:
        return f"{rows} {by_hash}"
    if request.order == "new first":
        first += ["reason NOT IN ('new', 'waiting')", "last_scored DESC NULLS FIRST"]
    if ranks:
        reasons = ", ".join(f"'{reason}'" for reason in ranks)
        first.append(f"list_position([{reasons}], reason)")
    failed = "(SELECT DISTINCT illust_id, page, true AS is_tried FROM staged WHERE error_code IS NOT NULL)"
    terms = ", ".join(["is_tried NULLS FIRST", *first])
    return (
        f"SELECT * FROM ({rows}) LEFT JOIN {failed} USING (illust_id, page) "
        f"{by_hash.replace('ORDER BY', f'ORDER BY {terms},', 1)}"
    )
