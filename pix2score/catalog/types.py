"""Values of a catalog, whatever type its writer chose: how a column is read, and the text that stands for a
value.

A value is a value: 7, 7.0 and the digits "7" are one, and so are an instant in any unit or zone, a date and
its midnight, bytes that are UTF-8 and that text. NaN and NaT are null. Text stays verbatim: "1.10" is not
"1.1".
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pix2score.storage.sql import in_memory, numbered

TEXT, INSTANT = pa.string(), pa.timestamp("us")
_HEX = np.frombuffer(b"".join(b"%02x" % i for i in range(256)), np.uint8).reshape(256, 2)
_DASHES = {8, 13, 18, 23}
_HEX_OF_UUID = [i for i in range(36) if i not in _DASHES]


def is_text(kind: pa.DataType) -> bool:
    """Strings of any Arrow kind, dictionaries of them too."""
    kind = bare(kind)
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Bytes of any Arrow kind, dictionaries of them too."""
    kind = bare(kind)
    return bool(
        pt.is_binary(kind)
        or pt.is_large_binary(kind)
        or pt.is_fixed_size_binary(kind)
        or pt.is_binary_view(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Lists of any Arrow kind."""
    kind = bare(kind)
    return bool(
        pt.is_list(kind)
        or pt.is_large_list(kind)
        or pt.is_fixed_size_list(kind)
        or pt.is_list_view(kind)
        or pt.is_large_list_view(kind)
    )


def is_uuid(kind: pa.DataType) -> bool:
    """The UUID of Parquet, which Arrow keeps as 16 bytes."""
    return getattr(kind, "extension_name", "") == "arrow.uuid"


def bare(kind: pa.DataType) -> pa.DataType:
    """The type of the values, without dictionaries, runs and extensions (but for a UUID, whose values are
    texts)."""
    while True:
        if pt.is_dictionary(kind) or pt.is_run_end_encoded(kind):
            kind = kind.value_type
        elif isinstance(kind, pa.BaseExtensionType) and not is_uuid(kind):
            kind = kind.storage_type
        else:
            return kind


def read_type(kind: pa.DataType) -> pa.DataType:
    """The type that a column of ``kind`` is read as, the same for every way of writing the same values."""
    kind = bare(kind)
    if is_text(kind) or is_bytes(kind) or is_uuid(kind) or pt.is_null(kind) or pt.is_decimal256(kind):
        return TEXT
    if pt.is_integer(kind):
        return kind if pt.is_uint64(kind) else pa.int64()
    if pt.is_float16(kind):
        return pa.float32()  # DuckDB has no smaller one
    if pt.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if pt.is_timestamp(kind):
        return pa.timestamp("ns") if kind.unit == "ns" else INSTANT
    return INSTANT if pt.is_date(kind) else kind


def common_type(kinds: Sequence[pa.DataType]) -> pa.DataType:
    """What a column that files hold in these types is read as: the one type, else the values' texts. Null
    types fit every other."""
    known = {read_type(kind) for kind in kinds if not pt.is_null(bare(kind))}
    return known.pop() if len(known) == 1 else TEXT


def label_read_type(kind: pa.DataType) -> pa.DataType:
    """The type that a label column of ``kind`` is read as: lists in one form, too."""
    return pa.list_(read_type(bare(kind).value_type)) if is_list(kind) else read_type(kind)


def common_label_type(kinds: Sequence[pa.DataType]) -> pa.DataType:
    """As ``common_type``; numbers of several types become the widest: int64 if all are whole, else
    float64."""
    wide = {
        pa.float64() if pt.is_decimal256(bare(kind)) else label_read_type(kind)
        for kind in kinds
        if not pt.is_null(bare(kind))
    }
    if len(wide) < 2:
        return wide.pop() if wide else TEXT
    if all(pt.is_integer(kind) or pt.is_boolean(kind) for kind in wide):
        return pa.int64()
    return TEXT if TEXT in wide else pa.float64()


def read_as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """``array`` as ``kind``, which ``read_type`` or ``common_type`` gave. Raises ``pa.ArrowInvalid`` for a
    value that does not fit, such as a text that is no UTF-8."""
    found = _read_as(_bare_array(array), kind)
    if kind.equals(TEXT):
        found.validate(full=True)
    return found


def _read_as(array: pa.Array, kind: pa.DataType) -> pa.Array:
    if pt.is_null(array.type):
        return pa.nulls(len(array), kind)
    if is_bytes(array.type) and kind.equals(TEXT):
        return _text_of_bytes(array)
    if pt.is_decimal256(array.type) and kind.equals(TEXT):
        return pc.replace_substring_regex(pc.cast(array, TEXT), r"(\.\d*[1-9])0+$|\.0*$", r"\1")
    if kind.equals(TEXT) and not is_text(array.type):
        return _texts(pc.cast(array, read_type(array.type)))
    return pc.cast(array, kind)


def _bare_array(array: pa.Array) -> pa.Array:
    """Undoes what ``bare`` undoes; UUIDs become their texts."""
    while True:
        if pt.is_dictionary(array.type):
            array = array.dictionary_decode()
        elif pt.is_run_end_encoded(array.type):
            array = pc.run_end_decode(array)
        elif is_uuid(array.type):
            return _text_of_uuids(array.storage)
        elif isinstance(array.type, pa.BaseExtensionType):
            array = array.storage
        else:
            return array


def _text_of_uuids(array: pa.Array) -> pa.Array:
    raw = np.frombuffer(b"".join(value or bytes(16) for value in array.to_pylist()), np.uint8).reshape(
        len(array), 16
    )
    letters = np.full((len(array), 36), ord("-"), np.uint8)
    letters[:, _HEX_OF_UUID] = _HEX[raw].reshape(len(array), 32)
    texts = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(36), len(array), [None, pa.py_buffer(letters.tobytes())]
    )
    return pc.if_else(array.is_valid(), pc.cast(pc.cast(texts, pa.binary()), TEXT), pa.scalar(None, TEXT))


def _text_of_bytes(array: pa.Array) -> pa.Array:
    """Bytes that are UTF-8 as that text, others as hex digits."""
    plain = pc.cast(array, pa.large_binary())
    try:
        return pc.cast(plain, TEXT)
    except pa.ArrowInvalid:
        return pa.array([None if value is None else _text(value) for value in plain.to_pylist()], TEXT)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _texts(array: pa.Array) -> pa.Array:
    """The text of each value, by the very SQL that plans are made with."""
    sql = f"SELECT {text_sql('v', array.type)} AS t FROM given ORDER BY position"
    texts = in_memory(sql, given=numbered(pa.table({"v": array}), "v"))
    return texts.column("t").combine_chunks().cast(TEXT)


def text_sql(column: str, kind: pa.DataType) -> str:
    """SQL: the text of each value of a column read as ``kind``; null for null and NaN."""
    if kind.equals(TEXT):
        return column
    if pt.is_floating(kind):
        # Whole numbers in digits, as an integer column has them; up to 1e38 a HUGEINT holds them exactly.
        whole = f"{column} = trunc({column}) AND abs({column}) < 1e38"
        return (
            f"CASE WHEN isnan({column}) THEN NULL WHEN {whole} THEN CAST(CAST({column} AS HUGEINT) AS "
            "VARCHAR) "
            f"ELSE CAST({column} AS VARCHAR) END"
        )
    if pt.is_decimal(kind) and kind.scale > 0:
        return _trimmed(f"CAST({column} AS VARCHAR)")
    if pt.is_timestamp(kind) and kind.tz is not None:
        return f"CAST(CAST({column} AS TIMESTAMP) AS VARCHAR)"
    return f"CAST({column} AS VARCHAR)"


def _trimmed(digits: str) -> str:
    """SQL: digits with a point without the zeros that say nothing; DuckDB writes .50 where a decimal has no
    room before the point."""
    bare_digits = f"rtrim(rtrim({digits}, '0'), '.')"
    return f"regexp_replace(regexp_replace({bare_digits}, '^(-?)(\\.|$)', '\\10\\2'), '^-0$', '0')"


def stored_text_sql(text: str, kind: pa.DataType) -> str:
    """SQL: what ``text_sql`` gives today for a value of a ``kind`` column that an earlier version stored as
    DuckDB's own text."""
    if pt.is_floating(kind) or pt.is_decimal(kind) or pt.is_integer(kind):
        in_exponents = (
            f"CASE WHEN {text} SIMILAR TO '-?[0-9.]+e[+-][0-9]+' THEN "
            f"{text_sql(f'TRY_CAST({text} AS DOUBLE)', pa.float64())} END"
        )
        return (
            f"CASE WHEN {text} SIMILAR TO '-?[0-9]*\\.[0-9]+' THEN {_trimmed(text)} ELSE "
            f"coalesce({in_exponents}, {text}) END"
        )
    if pt.is_timestamp(kind):
        bare_text = f"regexp_replace({text}, '\\+00$', '')"
        return (
            f"CASE WHEN {text} SIMILAR TO '[0-9]{{4,}}-[0-9]{{2}}-[0-9]{{2}}' THEN {text} || ' 00:00:00' "
            f"ELSE {bare_text} END"
        )
    return text


def stored_bytes_sql(text: str) -> str:
    """SQL: as ``stored_text_sql`` for a column of bytes, which earlier versions stored with ``\\x``
    escapes."""
    blob = f"TRY_CAST({text} AS BLOB)"
    return f"coalesce(TRY(decode({blob})), lower(hex({blob})), {text})"
