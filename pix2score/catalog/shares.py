"""A catalog's rows shared out to tasks: whole files together, large files by row groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa

from pix2score.catalog.catalog import Catalog
from pix2score.catalog.opening import open_file
from pix2score.catalog.read import FileRows
from pix2score.storage.folder import Entry

SHARE_BYTES = 4 * 2**30
"""At most, in files: of embedded images that are hashed, some minutes of a core."""


def shares(catalog: Catalog, share_rows: int, num_rows: int) -> list[tuple[FileRows, ...]]:
    """The catalog's rows in shares of about ``share_rows``; ``num_rows``: about how many it has in all.

    Goes by the sizes of files; reads the footers of those that are larger than a share.
    """
    total = sum(entry.size for entry in catalog.files)
    most = max(1, min(SHARE_BYTES, total * share_rows // max(1, num_rows)))
    return [tuple(part for part, _ in group) for group in _together(_pieces(catalog, most), most)]


def _pieces(catalog: Catalog, most: int) -> Iterator[tuple[FileRows, int]]:
    """Files, or parts of large ones, with their bytes; whole ones where hashes of a whole file are kept."""
    for entry in catalog.files:
        if entry.size <= 2 * most or catalog.hashes_images:
            yield FileRows(entry), entry.size
            continue
        with open_file(catalog.folder, entry) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            sizes = [(group.num_rows, group.total_byte_size) for group in groups]
        yield from _cut(entry, sizes, most)


def _cut(entry: Entry, sizes: Sequence[tuple[int, int]], most: int) -> Iterator[tuple[FileRows, int]]:
    """Parts of a file whose row groups have these rows and uncompressed bytes, of equal shares of it."""
    total = sum(size for _, size in sizes) or 1
    found: list[int] = []
    first_row = row = held = 0
    for number, (rows, size) in enumerate(sizes):
        found.append(number)
        row, held = row + rows, held + size * entry.size // total
        if held >= most or number == len(sizes) - 1:
            yield FileRows(entry, tuple(found), first_row), held
            found, first_row, held = [], row, 0


def _together(pieces: Iterator[tuple[FileRows, int]], most: int) -> Iterator[list[tuple[FileRows, int]]]:
    group: list[tuple[FileRows, int]] = []
    for piece in pieces:
        if group and sum(size for _, size in group) + piece[1] > most:
            yield group
            group = []
        group.append(piece)
    if group:
        yield group


def sample_keys(catalog: Catalog, share: Sequence[FileRows], number: int) -> tuple[pa.Table, int]:
    """About ``number`` rows of a share, ``illust_id`` and the catalog's own ``page``; and how many it has.

    Reads nothing but these two columns. Rows without an id are among them.
    """
    columns = replace(
        catalog.columns,
        uri=catalog.columns.id,
        image=None,
        group=None,
        split=None,
        fingerprint=None,
        updated_at=None,
    )
    keys = replace(catalog, columns=columns, labels=(), extras={})
    batches = [pa.table(batch).drop_columns(["uri"]) for batch in keys.batches(share)]
    rows = pa.concat_tables(batches)
    chosen = np.random.default_rng(0).integers(0, max(1, rows.num_rows), min(number, rows.num_rows))
    return rows.take(pa.array(np.sort(chosen))).combine_chunks(), rows.num_rows
