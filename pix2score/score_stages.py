"""The stages of scoring that run in workers: the predictor actor, and the sink that stages pieces."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ray.data import Datasink
from ray.data.block import Block

from pix2score.counters import count_forward
from pix2score.errors import ImageFailure
from pix2score.fetch import pixels_of
from pix2score.progress import Board
from pix2score.schema import FAILED, KEY, OK
from pix2score.snapshot import Layout, Receipt, write_piece
from pix2score.storage import Folder


class ScoreImages:
    """Ray Data stage: decoded images in, one SCORES row per image out with its embedding, same order and count.

    Becomes an actor: the model is loaded once in ``__init__``, each batch is one forward pass. Keeps no state between batches, so
    Ray may run a batch twice. Rows whose ``error_code`` is set skip the model and get null predictions.
    """

    def __init__(self, model: str, *, run: str, layout: Layout, progress: Board | None = None, **settings: Any) -> None:
        from pix2score.predictor import load_predictor  # imports torch, which only actors need

        self._predictor = load_predictor(model, **settings)
        self._run, self._layout, self._progress = run, layout, progress

    def __call__(self, rows: pa.Table) -> pa.Table:
        present = pc.is_null(rows.column("error_code"))
        pixels = pixels_of(rows.column("data").filter(present), self._predictor.card.preprocess)
        start = time.monotonic()
        prediction = self._predictor.predict(pixels)
        count_forward(len(pixels), time.monotonic() - start)
        if self._progress:
            self._progress.add(rows.num_rows)
        return _scored(rows, np.flatnonzero(present.to_numpy()), prediction, self._run, self._layout)


def _scored(rows: pa.Table, position: Any, prediction: Any, run: str, layout: Layout) -> pa.Table:
    """SCORES rows with a nullable ``embedding`` at the end; ``position`` says which rows the prediction is of."""
    from pix2score.predictor import head_columns

    element = layout.embeddings.field("embedding").type
    dtype = np.float16 if element.value_type == pa.float16() else np.float32
    with np.errstate(over="ignore"):
        embedding = prediction.embedding.astype(dtype)
    finite = prediction.finite & np.isfinite(embedding).all(axis=1)  # float16 ends at 65,504
    bad = position[~finite]
    codes, details = (np.array(rows.column(name).to_pylist(), dtype=object) for name in ("error_code", "error_detail"))
    failure = ImageFailure("NONFINITE", "the model's output is NaN or infinite")
    codes[bad], details[bad] = failure.code, failure.detail
    # Row i of the table takes prediction take[i]; null where there is none.
    take = np.full(rows.num_rows, -1, dtype=np.int64)
    take[position[finite]] = np.flatnonzero(finite)
    indices = pa.array(take, mask=take < 0)
    columns: dict[str, Any] = {name: rows.column(name) for name in (*KEY, "fingerprint")}
    columns["status"] = pa.array([FAILED if code else OK for code in codes])
    columns["error_code"], columns["error_detail"] = pa.array(codes, pa.string()), pa.array(details, pa.string())
    columns["attempts"] = pa.array([1] * rows.num_rows, pa.int16())
    columns["run"] = pa.array([run] * rows.num_rows)
    columns["scored_at"] = pa.array([datetime.now(UTC)] * rows.num_rows, pa.timestamp("us", tz="UTC"))
    for head in layout.heads:
        columns |= {name: column.take(indices) for name, column in head_columns(head, prediction.heads[head.name]).items()}
    flat = pa.array(embedding.ravel())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, type=element).take(indices)
    schema = layout.scores.append(pa.field("embedding", element))
    return pa.table([columns[name] for name in schema.names], schema=schema)


class PieceSink(Datasink[Receipt | None]):
    """Stages scored rows: each write task becomes one piece with a receipt. A task that Ray runs twice counts once."""

    def __init__(self, out: Folder, run: str, model_version: str, layout: Layout, part_rows: int) -> None:
        self._out, self._run, self._model_version, self._layout, self._part_rows = out, run, model_version, layout, part_rows
        self.receipts: list[Receipt] = []

    @property
    def min_rows_per_write(self) -> int:
        """Rows per piece."""
        return self._part_rows

    def write(self, blocks: Iterable[Block], ctx: Any) -> Receipt | None:
        """Runs in a worker."""
        rows = pa.concat_tables(list(blocks))
        if not rows.num_rows:
            return None
        scores = rows.select(self._layout.scores.names).cast(self._layout.scores)
        embedded = rows.filter(pc.is_valid(rows.column("embedding"))).select(self._layout.embeddings.names)
        piece = f"piece-{ctx.task_idx:06}"
        return write_piece(self._out, self._run, piece, self._model_version, scores, embedded.cast(self._layout.embeddings))

    def on_write_complete(self, write_result: Any) -> None:
        """Runs in the driver once all pieces are staged."""
        self.receipts = [receipt for receipt in write_result.write_returns if receipt]
