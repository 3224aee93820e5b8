"""The table of labels as the user has it: its columns, its rows in an embedded database, and what is wrong
with them.

A KPI is a rate, when ``clicks`` and ``impressions`` are given or ``kpi`` is 0 and 1, else a number. Rows of
one key are one: clicks and impressions are added up, numbers averaged, and of texts the first in the alphabet
stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pix2score.catalog.files import find_files
from pix2score.catalog.read import BATCH_ROWS, opened
from pix2score.catalog.shape import Shape, id_field, page_field, shape_of, value_field
from pix2score.catalog.types import bare, is_text, read_as, text_sql
from pix2score.dataset.card import SPLITS
from pix2score.dataset.plan import SplitRule, given_split, split_by_hash
from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.sql import load, one_row

Target = Literal["rate", "number"]
KPI, CLICKS, IMPRESSIONS = "kpi", "clicks", "impressions"
WORDS = {
    "unknown_id": "whose id the scores cannot have",
    "no_label": "without a number",
    "negative": "with a negative number",
    "no_impressions": "without impressions",
    "more_clicks": "with more clicks than impressions",
    "unknown_split": "of no known split",
}
"""Why the label of a row is left out."""


@dataclass(frozen=True, slots=True)
class SideColumn:
    """A column of the labels that is a feature; of texts those that the train split has."""

    name: str
    is_text: bool
    values: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What it is called in tables of ours, where it meets other columns."""
        return f"side {self.name}"


@dataclass(frozen=True, slots=True)
class Labels:
    """A table of labels as it stood when it was opened."""

    place: str
    folder: Folder
    files: tuple[Entry, ...]
    columns: tuple[str, ...]
    """Those in use, by the names that they have there."""
    schema: pa.Schema
    """The same by our names, in the types that they are read as."""
    side: tuple[SideColumn, ...]

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All rows. Raises ``DataError`` for a value that is not of its column's type."""
        for entry, opening in opened(self.folder, self.files):
            with opening as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=self.columns):
                    yield self._read(batch, entry)

    def _read(self, batch: pa.RecordBatch, entry: Entry) -> pa.RecordBatch:
        try:
            named = zip(self.columns, self.schema, strict=True)
            return pa.record_batch([_read(batch, *one) for one in named], schema=self.schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as exc:
            raise DataError(f"labels {self.folder.full(entry.path)} cannot be read: {exc}") from None


def _read(batch: pa.RecordBatch, name: str, field: pa.Field) -> pa.Array:
    if pt.is_float64(field.type):  # of whole numbers, decimals and yes or no too
        plain = read_as(batch.column(name), bare(batch.schema.field(name).type))
        return pc.cast(pc.cast(plain, pa.int8()) if pt.is_boolean(plain.type) else plain, field.type)
    return read_as(batch.column(name), field.type)


def open_labels(place: str, side_names: Sequence[str], *, with_kpi: bool) -> Labels:
    """The table at ``place``; without its KPI if it is read for its side columns alone.

    Raises ``DataError``: no Parquet there, a column is missing (it is named, with those present), or of a
    type that it cannot be.
    """
    folder, files = find_files(place)
    shape = shape_of(place, folder, files)
    _require(shape, ["illust_id"])
    fields = [id_field(shape, "illust_id")]
    if _has(shape, "page"):
        fields.append(page_field(shape, "page"))
    if with_kpi:
        fields += [_number_field(shape, name) for name in _label_names(shape)]
        fields += [value_field(shape, name) for name in ("group", "split") if _has(shape, name)]
    _require(shape, side_names)
    _refuse_own(side_names, place)
    side = tuple(SideColumn(name, is_text(shape.kind(name))) for name in side_names)
    for column in side:
        text = pa.field(column.name, pa.string())
        fields.append(text if column.is_text else _number_field(shape, column.name))
    columns = tuple(field.name for field in fields)
    ours = [*columns[: len(columns) - len(side)], *(column.key for column in side)]
    schema = pa.schema([field.with_name(name) for field, name in zip(fields, ours, strict=True)])
    return Labels(place, folder, tuple(files), columns, schema, side)


def _has(shape: Shape, name: str) -> bool:
    return any(name in schema.names for _, schema in shape.files)


def _require(shape: Shape, names: Sequence[str]) -> None:
    missing = [name for name in names if not _has(shape, name)]
    if missing:
        raise DataError(
            f"labels {shape.place} have no column {', '.join(missing)}; they have {', '.join(shape.names)}"
        )


def _refuse_own(side_names: Sequence[str], place: str) -> None:
    own = [
        name
        for name in side_names
        if name in (KPI, CLICKS, IMPRESSIONS, "illust_id", "page", "group", "split")
    ]
    if own:
        raise DataError(
            f"--features {', '.join(own)}: cannot be features of labels {place}: they are the key, the "
            "group, the split, or what is to be predicted"
        )


def _label_names(shape: Shape) -> list[str]:
    """``kpi``, or ``clicks`` and ``impressions``. Raises ``DataError`` unless it is one or the other."""
    found = [name for name in (KPI, CLICKS, IMPRESSIONS) if _has(shape, name)]
    if found in ([KPI], [CLICKS, IMPRESSIONS]):
        return found
    raise DataError(
        f"labels {shape.place} need a column {KPI}, or {CLICKS} and {IMPRESSIONS}, not both; they have "
        f"{', '.join(shape.names)}"
    )


def _number_field(shape: Shape, name: str) -> pa.Field:
    for kind in map(bare, shape.known_kinds(name)):
        if not (
            pt.is_integer(kind)
            or pt.is_floating(kind)
            or pt.is_decimal(kind)
            or pt.is_boolean(kind)
            or pt.is_null(kind)
        ):
            raise DataError(f"labels {shape.place}: column {name} is {kind}, expected numbers")
    return pa.field(name, pa.float64())


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
    name = quoted(column.key)
    number = f"avg({name}) FILTER (isfinite({name}))"
    return f"{f'min({name})' if column.is_text else number} AS {name}"


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


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
        page = f"CASE WHEN page IS NULL THEN 0 ELSE {number} END"
    return f"TRY_CAST(illust_id AS {_id_name(id_type)}) AS illust_id, {page}::INTEGER AS page"


def _judged_sql(schema: pa.Schema, id_type: pa.DataType) -> str:
    names = schema.names
    group = text_sql('"group"', schema.field("group").type) if "group" in names else "NULL"
    split = text_sql("split", schema.field("split").type) if "split" in names else "NULL::VARCHAR"
    own = {"illust_id", "page", "group", "split"}
    reason = _reason_sql(names, _id_name(id_type))
    others = "".join(f", {quoted(name)}" for name in names if name not in own)
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
