"""What a refit learns from: today's labels beside stored embeddings, on a disk of temporary files.

Shapes: N rows of a split, D embedding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.catalog.keys import KEY, key_fields
from pix2score.catalog.several import Catalogs
from pix2score.dataset.card import SPLITS
from pix2score.dataset.plan import SplitRule, plan_dataset
from pix2score.errors import DataError
from pix2score.heads.spec import HeadSpec
from pix2score.snapshots.read import batches_of, removed_meanwhile
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import EMBEDDING_RUN, OK, DataFile
from pix2score.storage.folder import Folder
from pix2score.storage.matrix import Matrix, MatrixFile
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.parts import Part
from pix2score.storage.quoting import identifier
from pix2score.storage.sql import engine, load, query

logger = logging.getLogger(__name__)
LEAST_ROWS = 1_000
"""Fewer say too little about hundreds of dimensions."""
_SAYS_EVERY = 20
"""Files of embeddings between lines of progress."""


@dataclass(frozen=True, slots=True)
class SplitRows:
    """Rows of one split, in the mixed order of the plan."""

    embedding_ND: npt.NDArray[np.floating]
    """As stored, in a file that is mapped into memory."""
    labels: pa.Table
    """``<head>_label`` of every head, [N]."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.embedding_ND)


def read_rows(
    catalogs: Catalogs,
    heads: Sequence[HeadSpec],
    rule: SplitRule,
    folder: Folder,
    snapshot: Snapshot,
    scratch: Path,
) -> tuple[dict[str, SplitRows], list[HeadSpec]]:
    """Split -> its rows that have an embedding, and the heads with what they learnt of the train split.

    Raises ``DataError`` where fewer than ``LEAST_ROWS`` of the train split have both.
    """
    parts, counts, fitted = plan_dataset(catalogs, heads, rule, Folder(str(scratch)), "labels")
    labels = [f"{head.name}_label" for head in heads]
    with engine(what=f"joining {counts.planned} labels with embeddings") as connection:
        number = _load_labelled(connection, Folder(str(scratch)), parts, labels)
        _load_stored(connection, catalogs.first.id_type, folder, snapshot)
        found = {split: _labels_of(connection, split, labels) for split in SPLITS}
        num_stored = sum(rows.num_rows for rows in found.values())
        logger.info(
            "%d rows with a label, %d of them with a stored embedding: %s",
            number,
            num_stored,
            ", ".join(f"{rows.num_rows} {split}" for split, rows in found.items()),
        )
        if found["train"].num_rows < LEAST_ROWS:
            raise DataError(
                f"only {found['train'].num_rows} rows of the train split have label and stored embedding, "
                f"{LEAST_ROWS} are needed; score more of the catalog first, or give "
                "--columns where labels are named otherwise"
            )
        stored = {split: _empty(scratch, split, rows, snapshot) for split, rows in found.items()}
        _fill(connection, folder, snapshot, stored)
    return {split: SplitRows(stored[split], rows) for split, rows in found.items()}, fitted


def _load_labelled(
    connection: duckdb.DuckDBPyConnection,
    scratch: Folder,
    parts: Sequence[Part],
    labels: Sequence[str],
) -> int:
    """Table ``labelled``: key, split, labels, and ``place`` in the order of the plan; return its rows."""
    with_parts = list(parquet_batches(scratch, [part.path for part in parts], [*KEY, "split", *labels]))
    rows = pa.Table.from_batches(with_parts) if with_parts else pa.table({})
    rows = rows.append_column("place", pa.array(range(rows.num_rows), pa.int64()))
    load(connection, "labelled", rows.schema, iter(rows.to_batches()))
    return int(rows.num_rows)


def _load_stored(
    connection: duckdb.DuckDBPyConnection, id_type: pa.DataType, folder: Folder, snapshot: Snapshot
) -> None:
    """Table ``chosen``: labelled rows with the run of their embedding, and ``row`` in their split."""
    facts = [pa.field("status", pa.string()), pa.field(EMBEDDING_RUN, pa.string())]
    schema = pa.schema([*(f.with_nullable(True) for f in key_fields(id_type)), *facts])
    batches = batches_of(folder, snapshot, snapshot.files_of("scores"), schema.names)
    load(connection, "stored", schema, batches)
    connection.execute(
        f"CREATE TABLE chosen AS SELECT l.*, s.{EMBEDDING_RUN} AS run, "
        "row_number() OVER (PARTITION BY split ORDER BY place) - 1 AS row FROM labelled l "
        f"JOIN stored s USING (illust_id, page) WHERE s.status = '{OK}' AND s.{EMBEDDING_RUN} IS NOT NULL"
    )


def _labels_of(connection: duckdb.DuckDBPyConnection, split: str, labels: Sequence[str]) -> pa.Table:
    names = ", ".join(map(identifier, labels))
    sql = f"SELECT {names} FROM chosen WHERE split = '{split}' ORDER BY row"
    return connection.cursor().sql(sql).to_arrow_table()


def _empty(scratch: Path, split: str, rows: pa.Table, snapshot: Snapshot) -> npt.NDArray[np.floating]:
    layout = snapshot.layout
    shape = (rows.num_rows, layout.embedding_dim)
    if not rows.num_rows:
        return np.zeros(shape, dtype=layout.embedding_dtype)
    place = str(scratch / f"{split}.npy")
    found: npt.NDArray[Any] = np.lib.format.open_memmap(
        place, mode="w+", dtype=np.dtype(layout.embedding_dtype), shape=shape
    )
    return found


def _fill(
    connection: duckdb.DuckDBPyConnection,
    folder: Folder,
    snapshot: Snapshot,
    stored: dict[str, npt.NDArray[np.floating]],
) -> None:
    """Put every embedding in its row. Raises ``DataError`` if one is missing."""
    files, missing = snapshot.files_of("embeddings"), {split: len(rows) for split, rows in stored.items()}
    for number, file in enumerate(files, 1):
        for embedding_nD, split, row in _embeddings(connection, folder, snapshot, file):
            stored[split][row] = embedding_nD
            missing[split] -= len(row)
        if number % _SAYS_EVERY == 0 or number == len(files):
            logger.info("embeddings read: %d of %d files", number, len(files))
    if any(missing.values()):
        raise DataError(
            f"{sum(missing.values())} embeddings of snapshot {snapshot.number} are in none of its files: "
            "jobs.verify names the damage"
        )


def _embeddings(
    connection: duckdb.DuckDBPyConnection, folder: Folder, snapshot: Snapshot, file: DataFile
) -> Iterator[tuple[npt.NDArray[np.floating], str, npt.NDArray[np.int64]]]:
    """Embeddings of a file that are wanted, with their split and rows there."""
    schema = pa.schema([("position", pa.int64()), ("split", pa.string()), ("row", pa.int64())])
    for found_keys, embedding in _row_groups(folder, snapshot, file):
        keys = found_keys.append_column("position", pa.array(range(found_keys.num_rows), pa.int64()))
        connection.register("keys", keys)
        sql = (
            "SELECT position, split, row FROM chosen JOIN keys USING (illust_id, page) "
            f"WHERE run = '{file.run}' ORDER BY position"
        )
        found = pa.concat_tables([schema.empty_table(), *query(connection, sql, schema)])
        connection.unregister("keys")
        position, split, row = (found.column(name).to_numpy() for name in schema.names)
        for name in SPLITS:
            of_split = split == name
            if of_split.any():
                yield embedding[position[of_split]], name, row[of_split]


def _row_groups(folder: Folder, snapshot: Snapshot, file: DataFile) -> Iterator[tuple[pa.Table, Matrix]]:
    """Keys of each row group of a file, and their embeddings [n, D].

    Raises ``DataError`` if it is missing, as ``vacuum`` removed the snapshot meanwhile.
    """
    try:
        with MatrixFile(folder, file.path, "embedding") as opened:
            for group in range(len(opened.group_rows)):
                yield opened.file.read_row_group(group, columns=list(KEY)), opened.matrix(group)
    except FileNotFoundError as exc:
        raise removed_meanwhile(folder, snapshot.number, exc) from None
