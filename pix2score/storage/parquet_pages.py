"""The pages of one column chunk of a Parquet file, for what Arrow reads slowly.

Page headers are Thrift structs in its compact protocol (Parquet's ``parquet.thrift``: ``PageHeader``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

CODECS = {"UNCOMPRESSED": None, "SNAPPY": "snappy", "ZSTD": "zstd"}
"""Parquet's name -> Arrow's, of those whose pages are understood."""
DATA_PAGE, PLAIN, RLE = 0, 0, 3
_TYPE, _UNPACKED, _PACKED, _DATA = 1, 2, 3, 5  # fields of PageHeader
_NUM_VALUES, _ENCODING, _DEFINITION, _REPETITION = 1, 2, 3, 4  # fields of DataPageHeader
_TRUE, _FALSE, _BYTE, _I64, _BINARY, _STRUCT = 1, 2, 3, 6, 8, 12  # types of the compact protocol
_DEPTH = 4  # of structs within a page header: it, its data header, statistics


class UnknownPageError(ValueError):
    """The chunk holds something else than plain data pages of the first version."""


@dataclass(frozen=True, slots=True)
class Page:
    """``num_values`` with their nulls, and ``content``: levels, then values."""

    num_values: int
    content: pa.Buffer


def data_pages(chunk: pa.Buffer, codec: str) -> Iterator[Page]:
    """Pages of a column chunk in order, unpacked. ``codec``: as its metadata names it.

    Raises ``UnknownPageError`` for what is no plainly encoded page, ``pa.ArrowException`` for damage.
    """
    if codec not in CODECS:
        raise UnknownPageError(f"codec {codec}")
    name, view, at = CODECS[codec], memoryview(chunk).cast("B"), 0
    unpack = pa.Codec(name) if name else None
    while at < len(view):
        header, at = _struct(view, at)
        size, facts = _checked(header, len(view) - at)
        packed = chunk.slice(at, size)
        yield Page(facts[_NUM_VALUES], unpack.decompress(packed, header[_UNPACKED]) if unpack else packed)
        at += size


def _checked(header: dict[int, Any], most_bytes: int) -> tuple[int, dict[int, Any]]:
    """Packed bytes of a page, at most so many, and its data header."""
    facts, size = header.get(_DATA), header.get(_PACKED)
    if header.get(_TYPE) != DATA_PAGE or not isinstance(facts, dict) or not isinstance(size, int):
        raise UnknownPageError(f"page {header}")
    coding = [facts.get(field) for field in (_ENCODING, _DEFINITION, _REPETITION)]
    sizes = [size, facts.get(_NUM_VALUES), header.get(_UNPACKED)]
    if coding != [PLAIN, RLE, RLE] or not 0 <= size <= most_bytes or not all(map(_is_size, sizes)):
        raise UnknownPageError(f"page {header}")
    return size, facts


def _is_size(number: Any) -> bool:
    return isinstance(number, int) and 0 <= number < 2**31


def _struct(view: memoryview, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Field number -> value of the struct at ``at``, and the position behind it."""
    if depth > _DEPTH:
        raise UnknownPageError("a page header of many structs")
    fields: dict[int, Any] = {}
    number = 0
    try:
        while (head := view[at]) != 0:
            at += 1
            if head >> 4:
                number += head >> 4
            else:
                number, at = _zigzag(view, at)
            fields[number], at = _value(view, at, head & 15, depth)
    except IndexError:
        raise UnknownPageError("a page header ends too early") from None
    return fields, at + 1


def _value(view: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in (_TRUE, _FALSE):
        return kind == _TRUE, at
    if kind == _BYTE:
        return view[at], at + 1
    if _BYTE < kind <= _I64:
        return _zigzag(view, at)
    if kind == _BINARY:
        size, at = _varint(view, at)
        return bytes(view[at : at + size]), at + size
    if kind == _STRUCT:
        return _struct(view, at, depth + 1)
    raise UnknownPageError(f"a field of type {kind} in a page header")


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    number, shift = 0, 0
    while True:
        byte = view[at]
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7


def _zigzag(view: memoryview, at: int) -> tuple[int, int]:
    number, at = _varint(view, at)
    return (number >> 1) ^ -(number & 1), at
