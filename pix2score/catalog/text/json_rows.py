"""JSON lines as Parquet: one object a line, its values in the types that they have; what fits no one type is
text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from pix2score.catalog.text.csv_rows import BLOCK_ROWS
from pix2score.catalog.text.lines import lines
from pix2score.catalog.types import common_label_type, is_list, read_as
from pix2score.errors import DataError
from pix2score.storage.folder import Entry, Folder


def write_json_lines(folder: Folder, entry: Entry, path: str) -> pa.Schema:
    """Write the rows to the Parquet file ``path``; return its schema.

    Whole numbers beyond int64 are text, exact. Raises ``DataError`` naming the line that is no JSON object,
    or the column whose values are of shapes that do not go together.
    """
    rows, blocks, schemas = _rows(folder, entry), list[Path](), list[pa.Schema]()
    while some := list(itertools.islice(rows, BLOCK_ROWS)):
        block = _block(some)
        blocks.append(Path(f"{path}.{len(blocks)}"))
        pq.write_table(block, blocks[-1], compression="zstd")
        schemas.append(block.schema)
    schema = _common(folder.full(entry.path), schemas)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for part in blocks:
            writer.write_table(_as(pq.read_table(part), schema))
            part.unlink()
    return schema


def _rows(folder: Folder, entry: Entry) -> Iterator[dict[str, Any]]:
    place = folder.full(entry.path)
    for number, line in lines(folder, entry):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except RecursionError:
            raise DataError(f"{place}: line {number} is too deeply nested") from None
        except ValueError as exc:
            where = f" at character {exc.colno}" if isinstance(exc, json.JSONDecodeError) else ""
            raise DataError(
                f"{place}: line {number} is not JSON: {getattr(exc, 'msg', exc)}{where}"
            ) from None
        if not isinstance(row, dict):
            raise DataError(f'{place}: line {number} is no JSON object: expected {{"illust_id": …}}')
        yield row


def _block(rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _array([row.get(name) for row in rows]) for name in names})


def _array(values: list[Any]) -> pa.Array:
    """Values in the type that Arrow finds for them; in none, as texts."""
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return _texts(values)


def _texts(values: list[Any]) -> pa.Array:
    plain = (value if value is None or isinstance(value, str) else json.dumps(value) for value in values)
    return pa.array(list(plain), pa.string())


def _common(place: str, schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One type for each column of all blocks."""
    kinds: dict[str, list[pa.DataType]] = {}
    for found in schemas:
        for field in found:
            kinds.setdefault(field.name, []).append(field.type)
    return pa.schema([pa.field(name, _one(f"{place}: column {name}", some)) for name, some in kinds.items()])


def _one(what: str, kinds: Sequence[pa.DataType]) -> pa.DataType:
    known = list(dict.fromkeys(kind for kind in kinds if not pt.is_null(kind)))
    if len(known) < 2:
        return known[0] if known else pa.null()
    if any(pt.is_nested(kind) for kind in known):
        if all(is_list(kind) for kind in known):
            return pa.list_(_one(what, [kind.value_type for kind in known]))
        try:
            schemas = [pa.schema([pa.field("x", kind)]) for kind in known]
            return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            raise DataError(f"{what} holds values of different shapes") from None
    return common_label_type(known)


def _as(block: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        if field.name not in block.column_names:
            columns.append(pa.nulls(block.num_rows, field.type))
            continue
        column = block.column(field.name).combine_chunks()
        columns.append(column if column.type.equals(field.type) else read_as(column, field.type))
    return pa.table(columns, schema=schema)
