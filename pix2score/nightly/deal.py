"""Rows of a night dealt out by range of keys: tasks that read a share of them, once, whatever it is of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.keys import Key
from pix2score.catalog.read import FileRows
from pix2score.catalog.rows import named_pages, page_sql
from pix2score.catalog.shares import sample_keys
from pix2score.nightly.bounds import Bounds, deal, keys_of
from pix2score.nightly.resume import published_rows, staged_rows, staged_schema
from pix2score.snapshots.pieces import Receipt
from pix2score.snapshots.tables import DataFile, Layout, dead_schema
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.slices import Slices
from pix2score.storage.sql import in_memory

SHARE_ROWS = 1_000_000
"""Of a task that deals out: held in memory twice."""
DEAL_BYTES = 2**30 + 2**29
_NUM_SAMPLED = 1000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Dealt:
    """A share of the catalog, by range, and its counts."""

    slices: Slices | None
    rows: int
    null_id: int
    hashes: list[str]
    """Paths of the hashes of embedded images that were not kept before."""


def sampled(catalog: Catalog, share: Sequence[FileRows]) -> tuple[list[Key], float]:
    """Some keys of a share, and how many rows each stands for."""
    rows, num_rows = sample_keys(catalog, share, _NUM_SAMPLED)
    keys = f"SELECT illust_id, {page_sql(catalog.rows_schema())}::INTEGER AS page FROM given"
    with named_pages(catalog):
        found = in_memory(f"SELECT * FROM ({keys}) WHERE illust_id IS NOT NULL", given=rows)
    return keys_of(found), num_rows / max(1, rows.num_rows)


def deal_catalog(
    folder: Folder, prefix: str, catalog: Catalog, bounds: Bounds, share: Sequence[FileRows]
) -> Dealt:
    """Columns as ``Catalog.rows_schema``. Raises ``DataError`` for a page that is no number."""
    rows = nulls = 0
    schema = catalog.rows_schema()

    def tables() -> Iterable[pa.Table]:
        nonlocal rows, nulls
        for batch in catalog.batches(share):
            rows += batch.num_rows
            nulls += batch.column("illust_id").null_count
            yield pa.Table.from_batches([batch])

    with named_pages(catalog):
        slices = deal(folder, prefix, schema, tables(), bounds, page_sql(schema))
    return Dealt(slices, rows=rows, null_id=nulls, hashes=catalog.kept.keep() if catalog.kept else [])


def deal_pieces(
    folder: Folder,
    prefix: str,
    layout: Layout,
    bounds: Bounds,
    receipts: Sequence[Receipt],
    first_number: int,
) -> Slices | None:
    """Columns as ``resume.staged_schema``."""
    schema = staged_schema(layout.id_type)
    return _deal(folder, prefix, schema, staged_rows(folder, receipts, layout, schema, first_number), bounds)


def deal_published(
    folder: Folder, prefix: str, id_type: pa.DataType, bounds: Bounds, runs: set[str], files: list[DataFile]
) -> Slices | None:
    """Embeddings of ``runs`` that live files name, columns as ``dead_schema``."""
    schema = dead_schema(id_type)
    return _deal(folder, prefix, schema, published_rows(folder, files, runs, schema), bounds)


def deal_files(
    folder: Folder,
    prefix: str,
    schema: pa.Schema,
    bounds: Bounds,
    read: Callable[[Folder, Sequence[DataFile], int, pa.Schema], Iterator[pa.RecordBatch]],
    files: Sequence[DataFile],
    first_number: int,
) -> Slices | None:
    """What ``read`` gives of files that are numbered from ``first_number``."""
    return _deal(folder, prefix, schema, read(folder, files, first_number, schema), bounds)


def deal_keys(
    folder: Folder, prefix: str, schema: pa.Schema, bounds: Bounds, paths: Sequence[str]
) -> Slices | None:
    """Columns of any Parquet files, their key among them, by range."""
    rows = (batch.select(schema.names) for batch in parquet_batches(folder, paths, schema.names))
    return _deal(folder, prefix, schema, rows, bounds)


def _deal(
    folder: Folder, prefix: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], bounds: Bounds
) -> Slices | None:
    tables = (pa.Table.from_batches([batch]).cast(schema) for batch in batches)
    return deal(folder, prefix, schema, tables, bounds)


def together(
    items: Sequence[T], rows: Sequence[int], most_rows: int = SHARE_ROWS
) -> list[tuple[int, list[T]]]:
    """Items one after the other in groups of about ``most_rows``, each with the number of its first."""
    groups: list[tuple[int, list[T]]] = []
    held = most_rows
    for number, (item, size) in enumerate(zip(items, rows, strict=True)):
        if held + size > most_rows and (not groups or groups[-1][1]):
            groups.append((number, []))
            held = 0
        groups[-1][1].append(item)
        held += size
    return groups
