"""JSON lines as Parquet: one object a line, its values in the types that they have; what fits no one type, or
none that Parquet has, is text."""

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

MAX_DEPTH = 30
"""Of lists and objects in each other that stay such: a list counts three times in Parquet, which has 100."""


def write_json_lines(folder: Folder, entry: Entry, path: str) -> pa.Schema:
    """Write the rows to the Parquet file ``path``; return its schema.

    Whole numbers beyond int64 are text, exact. Raises ``DataError`` for a file without a row, and naming the
    line that is no JSON object or holds what is no text.
    """
    rows, blocks, schemas = _rows(folder, entry), list[Path](), list[pa.Schema]()
    while some := list(itertools.islice(rows, BLOCK_ROWS)):
        block = _block(some)
        blocks.append(Path(f"{path}.{len(blocks)}"))
        pq.write_table(block, blocks[-1], compression="zstd")
        schemas.append(block.schema)
    if not schemas:
        raise DataError(f"{folder.full(entry.path)} is empty: expected a JSON object a line")
    schema = _common(schemas)
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
        if "\\u" in line and not _is_text(row):
            raise DataError(f"{place}: line {number} holds half of a character, which no text can")
        if not isinstance(row, dict):
            raise DataError(f'{place}: line {number} is no JSON object: expected {{"illust_id": …}}')
        yield row


def _is_text(row: Any) -> bool:
    """Whether all texts in it are Unicode: JSON may name half of a surrogate pair."""
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _block(rows: Sequence[dict[str, Any]]) -> pa.Table:
    names = dict.fromkeys(name for row in rows for name in row)
    return pa.table({name: _array([row.get(name) for row in rows]) for name in names})


def _array(values: list[Any]) -> pa.Array:
    """Values in the type that Arrow finds for them; in none, as texts."""
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return _texts(values)
    return array if _is_storable(array.type) else _texts(values)


def _is_storable(kind: pa.DataType, depth: int = MAX_DEPTH) -> bool:
    """Whether Parquet can hold it: no struct without fields, and not too many in each other."""
    if not depth:
        return False
    if pt.is_struct(kind):
        return bool(kind.num_fields) and all(_is_storable(field.type, depth - 1) for field in kind)
    return _is_storable(kind.value_type, depth - 1) if is_list(kind) else True


def _texts(values: list[Any]) -> pa.Array:
    plain = (value if value is None or isinstance(value, str) else json.dumps(value) for value in values)
    return pa.array(list(plain), pa.string())


def _common(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """One type for each column of all blocks."""
    kinds: dict[str, list[pa.DataType]] = {}
    for found in schemas:
        for field in found:
            kinds.setdefault(field.name, []).append(field.type)
    return pa.schema([pa.field(name, _one(some)) for name, some in kinds.items()])


def _one(kinds: Sequence[pa.DataType]) -> pa.DataType:
    known = list(dict.fromkeys(kind for kind in kinds if not pt.is_null(kind)))
    if len(known) < 2:
        return known[0] if known else pa.null()
    if any(pt.is_nested(kind) for kind in known):
        if all(is_list(kind) for kind in known):
            return pa.list_(_one([kind.value_type for kind in known]))
        try:
            schemas = [pa.schema([pa.field("x", kind)]) for kind in known]
            return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return pa.string()
    return common_label_type(known)


def _as(block: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        if field.name not in block.column_names:
            columns.append(pa.nulls(block.num_rows, field.type))
            continue
        column = block.column(field.name).combine_chunks()
        if pt.is_nested(column.type) and pt.is_string(field.type):
            column = _texts(column.to_pylist())
        columns.append(column if column.type.equals(field.type) else read_as(column, field.type))
    return pa.table(columns, schema=schema)
