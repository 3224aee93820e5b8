"""Heads that answer from stored embeddings: no picture is fetched or decoded, no trunk runs.

One streaming Ray Data execution of CPU tasks: slices of a plan, sorted by embedding file -> the rows of those
files -> the heads in numpy -> staged pieces of SCORES rows, whose embeddings stay where they are.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from pix2score.catalog.keys import KEY
from pix2score.cluster import stage_times
from pix2score.cluster.offer import Offer
from pix2score.cluster.progress import Meter
from pix2score.cluster.sink import Staging
from pix2score.cluster.source import ParquetParts
from pix2score.errors import DataError
from pix2score.model.answers import EmbeddingPredictor
from pix2score.model.folder import load_model
from pix2score.nightly.stored import FILE, POSITION
from pix2score.score.nonfinite import non_finite
from pix2score.snapshots.identity import model_of
from pix2score.snapshots.pieces import Origin, Receipt, write_piece
from pix2score.snapshots.tables import EMBEDDING_RUN, FAILED, OK, Layout
from pix2score.storage.folder import Folder
from pix2score.storage.matrix import Matrix, MatrixFile
from pix2score.storage.parts import Part, total_rows

logger = logging.getLogger(__name__)
TASK_ROWS, LARGE_TASK_ROWS = 8_192, 32_768
"""Of a task, and of its block, on small and on large nights.

Embeddings are read by row group, and of up to two of them a neighbour reads the rest.
"""
LARGE_NIGHT_ROWS = 500_000
MEMORY_BYTES = 768 * 2**20
"""Of a task: 613 MiB at most were seen (ResNet101's heads, 131,072 rows), of the process as a whole."""
PART_ROWS = 65_536
"""Of a staged piece: some 20 MB of SCORES rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerPipeline:
    """Everything that a night's rows go through whose embeddings are there."""

    model: str
    origin: Origin
    layout: Layout
    out: Folder
    offer: Offer

    def receipts(
        self, parts: Sequence[Part], prefix: str, is_over: Callable[[], bool] | None = None
    ) -> Iterator[Receipt]:
        """A receipt for every piece as it is staged; ``prefix`` of the pieces' names.

        Once ``is_over``, nothing more is begun, and what was finished by then is staged.
        """
        answer = functools.partial(
            answer_rows, out=self.out, model=self.model, origin=self.origin, layout=self.layout
        )
        task_rows = LARGE_TASK_ROWS if total_rows(parts) >= LARGE_NIGHT_ROWS else TASK_ROWS
        source = ParquetParts(
            self.out,
            parts,
            task_rows=lambda _: task_rows,
            block_rows=task_rows,
            row_bytes=200 + sum(head.row_bytes for head in self.layout.heads),
            stage=answer,
            name=answer_rows.__name__,
        )
        options = {"memory": MEMORY_BYTES, **self.offer.decode_placement()}
        rows = ray.data.read_datasource(source, override_num_blocks=source.num_tasks, **options)
        write = functools.partial(stage_answers, out=self.out, origin=self.origin, layout=self.layout)
        meter = Meter("answered from embeddings", total_rows(parts), logger)
        yield from Staging(rows, write, PART_ROWS, prefix, meter=meter, is_over=is_over).receipts()


def answer_rows(rows: pa.Table, *, out: Folder, model: str, origin: Origin, layout: Layout) -> pa.Table:
    """Ray Data stage: rows of ``nightly.stored.stored_schema`` in, one SCORES row each out, with ``model_s``.

    ``rows`` has those of a file together, in its order. Raises ``DataError`` if the model was replaced
    meanwhile, or an embedding is not where the plan says.
    """
    start = time.monotonic()
    predictor = _predictor(model, model_of(origin.model_version))
    found = [
        _answered(some, embedding_ND, predictor, origin, layout)
        for some, embedding_ND in _with_embeddings(out, rows)
    ]
    answered = pa.concat_tables(found) if found else layout.scores.empty_table()
    share = np.full(rows.num_rows, (time.monotonic() - start) / max(1, rows.num_rows), dtype=np.float32)
    return answered.append_column(stage_times.MODEL_S, pa.array(share))


@functools.lru_cache(maxsize=1)
def _predictor(model: str, version: str) -> EmbeddingPredictor:
    """Once for each process; a task may start hours after the plan was made."""
    card, weights = load_model(model)
    if card.version != version:
        raise DataError(
            f"model {model} was replaced while it was in use: planned {version}, found {card.version}; run "
            "again"
        )
    return EmbeddingPredictor(card, weights)


def _with_embeddings(out: Folder, rows: pa.Table) -> Iterator[tuple[pa.Table, Matrix]]:
    """``rows`` in parts, each with its embeddings [N, D]: of one row group of one file."""
    files = pc.run_end_encode(rows.column(FILE).combine_chunks())
    start = 0
    for stop, path in zip(files.run_ends.to_pylist(), files.values.to_pylist(), strict=True):
        with MatrixFile(out, path, "embedding") as file:
            yield from _of_file(file, rows.slice(start, stop - start), out.full(path))
        start = stop


def _of_file(file: MatrixFile, rows: pa.Table, name: str) -> Iterator[tuple[pa.Table, Matrix]]:
    """By row group; those without any of ``rows`` are not read."""
    position = rows.column(POSITION).to_numpy()
    starts = np.cumsum([0, *file.group_rows])
    ends = np.searchsorted(position, starts)
    for group in np.flatnonzero(np.diff(ends)).tolist():
        some = rows.slice(ends[group], ends[group + 1] - ends[group])
        at = position[ends[group] : ends[group + 1]] - starts[group]
        keys, embedding_ND = file.file.read_row_group(group, columns=list(KEY)), file.matrix(group)
        if len(at) < len(embedding_ND):
            keys, embedding_ND = keys.take(pa.array(at)), embedding_ND[at]
        if not all(keys.column(key).equals(some.column(key)) for key in KEY):
            raise DataError(f"{name} does not hold the embeddings that the plan found there")
        yield some, embedding_ND


def _answered(
    rows: pa.Table,
    embedding_ND: Matrix,
    predictor: EmbeddingPredictor,
    origin: Origin,
    layout: Layout,
) -> pa.Table:
    prediction = predictor.predict(embedding_ND)
    finite = prediction.finite
    indices = pa.array(np.arange(rows.num_rows), mask=~finite)
    failure = non_finite(is_embedding=False)
    columns: dict[str, Any] = {name: rows.column(name) for name in (*KEY, "fingerprint", "attempts")}
    for name, value in (("error_code", failure.code), ("error_detail", failure.detail)):
        columns[name] = pc.if_else(pa.array(finite), rows.column(name), pa.scalar(value))
    columns["status"] = pa.array(np.where(finite, OK, FAILED).tolist(), pa.string())
    columns["run"] = pa.repeat(pa.scalar(origin.run), rows.num_rows)
    columns[EMBEDDING_RUN] = pc.if_else(
        pa.array(finite), rows.column(EMBEDDING_RUN), pa.scalar(None, pa.string())
    )
    columns["scored_at"] = pa.repeat(
        pa.scalar(datetime.now(UTC), pa.timestamp("us", tz="UTC")), rows.num_rows
    )
    for head in layout.heads:
        answers = head.columns(prediction.heads[head.name])
        columns |= {name: column.take(indices) for name, column in answers.items()}
    schema = layout.scores
    return pa.table([columns[name] for name in schema.names], schema=schema)


def stage_answers(piece: str, rows: pa.Table, *, out: Folder, origin: Origin, layout: Layout) -> Receipt:
    """Write the rows of ``answer_rows`` to storage as a piece without embeddings; return its receipt."""
    start = time.monotonic()
    scores = rows.select(layout.scores.names).cast(layout.scores)
    nothing = layout.embeddings.empty_table()

    def measure() -> dict[str, float]:
        busy = pc.sum(rows.column(stage_times.MODEL_S.name)).as_py() or 0.0
        return {"answer": round(busy, 4), "answer_write": round(time.monotonic() - start, 4)}

    return write_piece(out, origin, piece, layout, scores, nothing, measure)
