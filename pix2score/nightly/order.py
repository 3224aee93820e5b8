"""In what order a night's rows are scored: as asked for, by what has waited, else by hash of the key."""

from __future__ import annotations

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.planned import order_sql, order_terms
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
    by_hash, first = order_sql(catalog), _first(catalog, request)
    if not first:
        return f"{rows} {by_hash}"
    terms = ", ".join(["is_tried NULLS FIRST", *(f"{term} {how}" for term, how in first)])
    return (
        f"SELECT * FROM ({rows}) LEFT JOIN {TRIED} USING (illust_id, page) "
        f"{by_hash.replace('ORDER BY', f'ORDER BY {terms},', 1)}"
    )


TRIED = "(SELECT DISTINCT illust_id, page, true AS is_tried FROM staged WHERE error_code IS NOT NULL)"
"""SQL: keys that an earlier run staged as failed."""
_ASC = "ASC NULLS LAST"


def _first(catalog: Catalog, request: ScoringRequest) -> list[tuple[str, str]]:
    """Terms, and how each orders, that come before the hash of the key."""
    first = request.first.terms(catalog) if request.first else []
    if request.order == "new first":
        first += [("reason NOT IN ('new', 'waiting')", _ASC), ("last_scored", "DESC NULLS FIRST")]
    if ranks := _RANKS.get(request.order):
        reasons = ", ".join(f"'{reason}'" for reason in ranks)
        first.append((f"list_position([{reasons}], reason)", _ASC))
    return first


def is_steered(request: ScoringRequest) -> bool:
    """Whether anything comes before the hash of the key: bytes stand for a row's place then."""
    return request.first is not None or request.order in _RANKS


def place_sql(catalog: Catalog, request: ScoringRequest) -> str:
    """SQL: one value of a row of ``wanted`` by which rows compare as ``in_order`` has them, but for ties.

    Where the night is steered, as bytes, the first of which is for whether the row was tried before.
    """
    by_hash = [(term, _ASC) for term in order_terms(catalog)]
    first = _first(catalog, request)
    if not first and not catalog.embedded:
        return by_hash[0][0]
    given = ", ".join(f"{term}, '{how}'" for term, how in [*first, *by_hash])
    key = f"create_sort_key({given})"
    return f"'\\x00'::BLOB || {key}" if first else key


def tried_place_sql() -> str:
    """SQL: ``place`` of a row that was tried before, which comes after all others."""
    return "'\\x01'::BLOB || place[2:]"
