"""The rows of a table of labels in an embedded database: one for each key, and what is wrong with the others.

Rows of one key are one: clicks and impressions are added up, numbers averaged, and of texts the first in the
alphabet stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.types as pt

from pix2score.catalog.types import text_sql
from pix2score.dataset.card import SPLITS
from pix2score.dataset.plan import SplitRule, given_split, split_by_hash
from pix2score.kpi.labels import CLICKS, KPI, Labels, SideColumn
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import load, one_row

Target = Literal["rate", "number"]
WORDS = {
    "unknown_id": "whose id the scores cannot have",
    "no_label": "without a number",
    "negative": "with a negative number",
    "no_impressions": "without impressions",
    "more_clicks": "with more clicks than impressions",
    "unknown_split": "of no known split",
}
"""Why the label of a row is left out."""


def load_labels(
    connection: duckdb.DuckDBPyConnection, labels: Labels, id_type: pa.DataType, rule: SplitRule
) -> tuple[Target, dict[str, Any]]:
    """Make table ``labelled``, a row for each key with a label; return what it is, and counts.

    Columns: ``illust_id`` (of the scores' type), ``page``, ``truth``, ``weight`` (impressions; 1 without),
    ``group``, ``split``, and the side columns.
    """
    load(connection, "given", labels.schema, labels.batches())
    names = labels.schema.names
    connection.execute(f"CREATE TABLE judged AS {_judged_sql(labels.schema, id_type)}")
    (rows,) = one_row(connection, "SELECT count(*) FROM judged")
    target: Target = "rate" if CLICKS in names or _is_yes_or_no(connection) else "number"
    truth = "avg(kpi)" if KPI in names else "sum(clicks) / sum(impressions)"
    weight = "1.0" if KPI in names else "sum(impressions)"
    side = "".join(f", {side_sql(column)}" for column in labels.side)
    split = given_split() if "split" in names else split_by_hash(rule)
    connection.execute(
        f"CREATE TABLE summed AS SELECT illust_id, page, {truth} AS truth, {weight} AS weight, "
        f'min("group") AS "group", min(split) AS split{side}, count(*) AS times '
        "FROM judged WHERE reason IS NULL GROUP BY illust_id, page"
    )
    connection.execute(f"CREATE TABLE labelled AS SELECT * REPLACE ({split} AS split) FROM summed")
    dropped = _by(connection, "SELECT reason, count(*) FROM judged WHERE reason IS NOT NULL")
    unknown = f"FROM labelled WHERE split IS NULL OR split NOT IN {SPLITS}"
    (num_unknown,) = one_row(connection, f"SELECT count(*) {unknown}")
    connection.execute(f"DELETE {unknown}")
    if num_unknown:
        dropped["unknown_split"] = num_unknown
    (repeated,) = one_row(connection, "SELECT coalesce(sum(times - 1), 0)::BIGINT FROM summed")
    return target, {"rows": rows, "dropped": dropped, "repeated": repeated}


def load_side(connection: duckdb.DuckDBPyConnection, labels: Labels, id_type: pa.DataType) -> None:
    """Make table ``labelled`` of the side columns alone."""
    load(connection, "given", labels.schema, labels.batches())
    side = "".join(f", {side_sql(column)}" for column in labels.side)
    connection.execute(
        f"CREATE TABLE labelled AS SELECT {_key_sql(labels.schema, id_type)}{side} FROM given GROUP BY ALL"
    )


def side_sql(column: SideColumn) -> str:
    """SQL: a side column of the rows of one key."""
    name = identifier(column.key)
    number = f"avg({name}) FILTER (isfinite({name}))"
    return f"{f'min({name})' if column.is_text else number} AS {name}"


def described(counts: dict[str, Any]) -> str:
    """What became of the rows of a table of labels, in a line."""
    parts = [f"{number} {WORDS[reason]}" for reason, number in counts["dropped"].items()]
    parts += [f"{counts['repeated']} more of a key, taken together"] if counts["repeated"] else []
    return f"{counts['rows']} labels{': ' + ', '.join(parts) if parts else ''}"


def _id_name(id_type: pa.DataType) -> str:
    return "BIGINT" if pt.is_integer(id_type) else "VARCHAR"


def _key_sql(schema: pa.Schema, id_type: pa.DataType) -> str:
    page = "0"
    if "page" in schema.names:  # 2, 2.0, "2" and "p2" are one
        text = text_sql("page", schema.field("page").type)
        number = f"coalesce(TRY_CAST(ltrim(trim({text}), 'p') AS INTEGER), -1)"
        page = f"CASE WHEN coalesce(trim({text}), '') = '' THEN 0 ELSE {number} END"
    return f"TRY_CAST(illust_id AS {_id_name(id_type)}) AS illust_id, {page}::INTEGER AS page"


def _judged_sql(schema: pa.Schema, id_type: pa.DataType) -> str:
    names = schema.names
    group = text_sql('"group"', schema.field("group").type) if "group" in names else "NULL"
    split = text_sql("split", schema.field("split").type) if "split" in names else "NULL::VARCHAR"
    own = {"illust_id", "page", "group", "split"}
    reason = _reason_sql(names, _id_name(id_type))
    others = "".join(f", {identifier(name)}" for name in names if name not in own)
    return (
        f"SELECT {_key_sql(schema, id_type)}, {reason} AS reason, {split} AS split, "
        f'coalesce({group}, CAST(illust_id AS VARCHAR)) AS "group"{others} FROM given'
    )


def _reason_sql(names: Sequence[str], id_name: str) -> str:
    start = f"CASE WHEN TRY_CAST(illust_id AS {id_name}) IS NULL THEN 'unknown_id' "
    if KPI in names:
        return f"{start} WHEN kpi IS NULL OR NOT isfinite(kpi) THEN 'no_label' END"
    finite = "isfinite(clicks) AND isfinite(impressions)"
    return (
        f"{start} WHEN NOT coalesce({finite}, false) THEN 'no_label' "
        "WHEN clicks < 0 OR impressions < 0 THEN 'negative' WHEN clicks > impressions THEN 'more_clicks' "
        "WHEN impressions = 0 THEN 'no_impressions' END"
    )


def _is_yes_or_no(connection: duckdb.DuckDBPyConnection) -> bool:
    (others,) = one_row(connection, "SELECT count(*) FROM judged WHERE reason IS NULL AND kpi NOT IN (0, 1)")
    return not others


def _by(connection: duckdb.DuckDBPyConnection, sql: str) -> dict[str, int]:
    return dict(connection.execute(f"{sql} GROUP BY 1 ORDER BY 1").fetchall())
