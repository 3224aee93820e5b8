"""Groups of near-identical pictures, as ``jobs.duplicates`` writes them, beside the splits of a training set.

A group that spans splits lets a model be measured by what it has learnt by heart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import duckdb

from pix2score.dataset.side_table import SideTable, open_side_table
from pix2score.storage.sql import load, one_row

Rule: TypeAlias = Literal["warn", "drop"]
NEEDED = ("group", "illust_id")
NUM_EXAMPLES = 5
_RANK = "CASE split WHEN 'test' THEN 0 WHEN 'val' THEN 1 ELSE 2 END"
"""Rows stay in the split that is hardest to do without: a training row more or less matters little."""


@dataclass(frozen=True, slots=True)
class NearIdentical:
    """A table of groups, and what becomes of those that span splits."""

    table: SideTable
    rule: Rule


def open_near_identical(place: str, rule: Rule) -> NearIdentical:
    """The table at ``place``. Raises ``DataError``: no such file, no Parquet, or a column missing."""
    what = "what jobs.duplicates wrote"
    columns = f"{what}: group, illust_id, page"
    return NearIdentical(open_side_table("--duplicates", place, NEEDED, ("page",), what, columns), rule)


def find_spanning(connection: duckdb.DuckDBPyConnection, alike: NearIdentical) -> dict[str, Any]:
    """Count the groups with rows of table ``chosen`` in several splits; with ``drop`` leave them one split:
    test before val before train.

    Returns ``groups`` and ``rows`` of those that span splits, ``dropped`` rows, and ``examples``: of each of
    the first groups an illust_id per split.
    """
    load(connection, "alike", alike.table.schema(), alike.table.batches())
    (id_type,) = one_row(connection, "SELECT typeof(illust_id) FROM split_rows LIMIT 1")
    page = "coalesce(TRY_CAST(page AS INTEGER), 0)" if "page" in alike.table.columns else "0"
    connection.execute(
        f"CREATE TABLE spanning AS SELECT a.number, c.illust_id, c.page, c.split, {_RANK} AS rank FROM "
        f'(SELECT DISTINCT "group" AS number, TRY_CAST(illust_id AS {id_type}) AS illust_id, {page} AS page '
        "FROM alike) a JOIN chosen c USING (illust_id, page) "
        "QUALIFY min(split) OVER (PARTITION BY number) <> max(split) OVER (PARTITION BY number)"
    )
    groups, rows = one_row(connection, "SELECT count(DISTINCT number), count(*) FROM spanning")
    examples = _examples(connection)
    dropped = _drop(connection) if alike.rule == "drop" else 0
    return {"groups": groups, "rows": rows, "dropped": dropped, "examples": examples}


def _examples(connection: duckdb.DuckDBPyConnection) -> list[dict[str, str]]:
    """Of each of the first groups: split -> an illust_id."""
    found: dict[Any, dict[str, str]] = {}
    sql = (
        "SELECT number, split, CAST(min(illust_id) AS VARCHAR) FROM spanning WHERE number IN "
        f"(SELECT DISTINCT number FROM spanning ORDER BY 1 LIMIT {NUM_EXAMPLES}) GROUP BY ALL ORDER BY 1, 2"
    )
    for number, split, key in connection.execute(sql).fetchall():
        found.setdefault(number, {})[split] = key
    return list(found.values())


def _drop(connection: duckdb.DuckDBPyConnection) -> int:
    (before,) = one_row(connection, "SELECT count(*) FROM chosen")
    connection.execute(
        "CREATE TABLE surplus AS SELECT DISTINCT illust_id, page FROM spanning "
        "QUALIFY rank > min(rank) OVER (PARTITION BY number)"
    )
    connection.execute(
        "DELETE FROM chosen WHERE (illust_id, page) IN (SELECT (illust_id, page) FROM surplus)"
    )
    (after,) = one_row(connection, "SELECT count(*) FROM chosen")
    return int(before - after)


def spanning_warnings(counts: Mapping[str, Any]) -> Sequence[str]:
    """What a person should hear of."""
    if not counts.get("groups"):
        return ()
    first = "; ".join(
        ", ".join(f"{key} in {split}" for split, key in one.items()) for one in counts["examples"]
    )
    what = (
        f"{counts['dropped']} of their rows are left out, so that each is in one split"
        if counts["dropped"]
        else "what is measured there is partly learnt by heart; --duplicates-rule drop leaves the surplus out"
    )
    return (
        f"{counts['groups']} groups of near-identical pictures, {counts['rows']} rows, span splits: {what} "
        f"(such as {first})",
    )
