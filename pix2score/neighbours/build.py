"""The index of a snapshot, written part by part, out of core.

Learn axes and cells from a sample of the embedding files, then read these once: each ``PART_ROWS`` live rows
become a part. What the process holds grows by some 264 bytes a row; at a million its peak was 1.6 GiB.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.neighbours.cells import Cells, codes_of, remove_positions
from pix2score.neighbours.parts import PART_ROWS, Vectors, part_tables, write_part
from pix2score.neighbours.questions import NUM_NEW, NUM_QUESTIONS, Questions
from pix2score.neighbours.vectors import Positions, check_finite, matrix, stored
from pix2score.snapshots.indexes import (
    IndexCard,
    IndexFile,
    IndexPart,
    embeddings_id,
    folder_of,
    write_index_file,
)
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_bytes

logger = logging.getLogger(__name__)

SAMPLE_ROWS = 163_840
"""Forty for each of 4,096 cells; of 2,048 float16 they are 640 MiB."""
SAMPLE_GROUPS = 64
"""Row groups that the sample is drawn from, spread over all files."""


@dataclass(slots=True)
class Draft:
    """An index in the making."""

    folder: Folder
    snapshot: Snapshot
    cells: Cells
    questions: Questions
    index: Any
    """In faiss, of all rows."""
    projection_file: IndexFile
    cells_file: IndexFile
    parts: list[IndexPart] = field(default_factory=list)
    gone: Positions = field(default_factory=lambda: np.empty(0, np.int64))
    taken_up: int = 0

    @classmethod
    def begun(cls, folder: Folder, snapshot: Snapshot) -> Draft:
        """Learnt from a sample of the snapshot's embeddings; without rows."""
        sample_ND = _sample(folder, snapshot)
        num_rows = sum(file.rows for file in snapshot.files_of("embeddings"))
        cells = Cells.learnt(sample_ND, num_rows)
        logger.info("%d cells learnt from %d of %d embeddings", cells.num_cells, len(sample_ND), num_rows)
        drawn = np.random.default_rng(1).permutation(len(sample_ND))[:NUM_QUESTIONS]
        questions = Questions.about(np.asarray(sample_ND[np.sort(drawn)], np.float32))
        projection = _written(folder, snapshot, "projection.safetensors", cells.projection)
        content = _written(folder, snapshot, "cells.faiss", cells.content)
        return cls(folder, snapshot, cells, questions, cells.empty(), projection, content)

    def add(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Write parts of the rows of ``batches``: illust_id, page, run and embedding."""
        for rows in part_tables(batches, PART_ROWS):
            self._add_part(rows)

    def _add_part(self, rows: pa.Table) -> None:
        first = self.parts[-1].first + self.parts[-1].rows if self.parts else 0
        part, position = self.cells.empty(), first
        for chunk in rows.column("embedding").chunks:
            check_finite(stored(chunk), self.folder.uri)
            block_ND = matrix(chunk)
            positions_N = np.arange(position, position + len(block_ND))
            part.add_with_ids(self.cells.project(block_ND), positions_N)
            self.questions.add(block_ND, positions_N)
            position += len(block_ND)
        layout = self.snapshot.layout
        self.parts.append(write_part(self.folder, self.snapshot.number, first, rows, codes_of(part), layout))
        self.index.merge_from(part, 0)
        logger.info("%d rows indexed", self.index.ntotal)

    def remove(self, positions: Positions) -> None:
        """Rows at ``positions`` are no longer live."""
        remove_positions(self.index, positions)
        self.questions.remove(positions)
        self.gone = np.union1d(self.gone, positions)

    def ask_about_new(self, first: int) -> None:
        """Let some questions be about the rows from position ``first`` on."""
        last = self.parts[-1].first + self.parts[-1].rows - 1
        if last < first:
            return
        layout = self.snapshot.layout
        vectors = Vectors(self.folder, self.parts, layout.embedding_dim, layout.embedding_dtype)
        positions = np.unique(np.linspace(first, last, NUM_NEW).astype(np.int64))
        self.questions.renew(vectors.read(positions), self.index, self.cells, vectors)

    def card(self) -> IndexCard:
        """What it is, with its questions and what is gone written, and its recall measured."""
        search = self.questions.set_search(self.index, self.cells)
        gone = pa.table({"position": self.gone})
        layout = self.snapshot.layout
        return IndexCard(
            snapshot=self.snapshot.number,
            trunk_version=self.snapshot.manifest.get("trunk_version"),
            embeddings=embeddings_id(self.snapshot),
            embedding_dim=layout.embedding_dim,
            embedding_dtype=layout.embedding_dtype,
            rows=int(self.index.ntotal),
            num_gone=len(self.gone),
            taken_up=self.taken_up,
            library=f"faiss {faiss.__version__}",
            num_cells=self.cells.num_cells,
            code_dim=self.cells.dim,
            num_probed=search.num_probed,
            num_candidates=search.num_candidates,
            recall=round(search.recall, 4),
            num_questions=search.num_questions,
            projection=self.projection_file,
            cells=self.cells_file,
            questions=_written(self.folder, self.snapshot, "questions.safetensors", self.questions.content),
            gone=_written(self.folder, self.snapshot, "gone.parquet", parquet_bytes(gone))
            if len(self.gone)
            else None,
            parts=tuple(self.parts),
        )


def _written(folder: Folder, snapshot: Snapshot, name: str, data: bytes) -> IndexFile:
    """A file of its own name, as what a killed build left there must not be taken for it."""
    stem, _, suffix = name.partition(".")
    path = f"{folder_of(snapshot.number)}/{stem}-{uuid.uuid4().hex[:16]}.{suffix}"
    return write_index_file(folder, path, data)


def _sample(folder: Folder, snapshot: Snapshot) -> npt.NDArray[np.floating]:
    """[N, D] of embeddings from row groups all over the files, in the precision that they have.

    Superseded ones may be among them: they are of the same trunk.
    """
    groups = _row_groups(folder, snapshot)
    step = max(1, len(groups) // SAMPLE_GROUPS)
    chosen = groups[::step][:SAMPLE_GROUPS]
    rng, each = np.random.default_rng(0), SAMPLE_ROWS // len(chosen) + 1
    found = [_drawn(folder, path, number, each, rng) for path, number in chosen]
    return np.concatenate(found)


def _row_groups(folder: Folder, snapshot: Snapshot) -> Sequence[tuple[str, int]]:
    """Path and number of row groups, of all files or of files all over."""
    files = [file for file in snapshot.files_of("embeddings") if file.rows]
    some = files[:: max(1, len(files) // SAMPLE_GROUPS)]
    found = []
    for file in some:
        with open_parquet(folder, file.path) as opened:
            found += [(file.path, number) for number in range(opened.num_row_groups)]
    return found


def _drawn(
    folder: Folder, path: str, group: int, num: int, rng: np.random.Generator
) -> npt.NDArray[np.floating]:
    with open_parquet(folder, path) as opened:
        rows_ND = stored(opened.read_row_group(group, columns=["embedding"]).column(0).combine_chunks())
    return rows_ND[np.sort(rng.permutation(len(rows_ND))[:num])]
