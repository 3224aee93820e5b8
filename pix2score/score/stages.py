"""The stages of scoring that run in workers: the predictor actor, and what makes a piece of its rows."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.cluster import stage_times
from pix2score.cluster.alike import check_worker
from pix2score.cluster.counters import count_forward
from pix2score.errors import DataError
from pix2score.images import repeats
from pix2score.images.columns import pixels_of
from pix2score.model.admission import Admission, load_admitted
from pix2score.model.predictor import Predictor, load_predictor
from pix2score.score.nonfinite import non_finite
from pix2score.snapshots.identity import model_of
from pix2score.snapshots.pieces import Origin, Receipt, write_piece
from pix2score.snapshots.tables import EMBEDDING_RUN, FAILED, OK, Layout
from pix2score.storage.folder import Folder


class ScoreImages:
    """Ray Data stage: decoded images in, one SCORES row per image out with its embedding.

    In the same order, as many as came in. Becomes an actor: the model is loaded once in ``__init__``. Keeps
    no state between calls, so Ray may run one twice, or several at a time. Rows whose ``error_code`` is set
    skip the model and get null predictions.
    """

    def __init__(
        self,
        model: str,
        *,
        origin: Origin,
        layout: Layout,
        gpu_decode: bool = False,
        admission: Admission | None = None,
        **settings: Any,
    ) -> None:
        """Load the model.

        ``gpu_decode``: rows come with encoded JPEGs, for the predictor's device to decode. ``admission``: of
        the engine of fewer bits that answers; the rest is the predictor's.
        """
        check_worker()
        self._predictor = (
            load_admitted(model, admission, **settings) if admission else load_predictor(model, **settings)
        )
        self._decode = _device_rows(self._predictor) if gpu_decode else None
        version, planned = self._predictor.card.version, model_of(origin.model_version)
        if version != planned:  # an actor may start hours after the plan was made
            raise DataError(
                f"model {model} was replaced while in use: planned {planned}, found {version}; run again"
            )
        self._run, self._layout = origin.run, layout

    def __call__(self, rows: pa.Table) -> pa.Table:
        start = time.monotonic()
        if self._decode:
            rows = self._decode(rows)
        present = pc.is_null(rows.column("error_code"))
        pixels = pixels_of(rows.column("data").filter(present), self._predictor.card.preprocess)
        prediction = self._predictor.predict(pixels)
        seconds = time.monotonic() - start
        count_forward(len(pixels), seconds)
        scored = _scored(rows, np.flatnonzero(present.to_numpy()), prediction, self._run, self._layout)
        return _with_measured(scored, rows, seconds)


def _device_rows(predictor: Predictor) -> Callable[[pa.Table], pa.Table]:
    from pix2score.model.device_decode import DeviceDecoder  # imports torch
    from pix2score.score.device_rows import DeviceRows

    preprocess = predictor.card.preprocess
    return DeviceRows(preprocess, DeviceDecoder(preprocess, predictor.device))


def _with_measured(scored: pa.Table, rows: pa.Table, model_s: float) -> pa.Table:
    for field in stage_times.OF_DECODE:
        scored = scored.append_column(field, rows.column(field.name))
    share = np.full(rows.num_rows, model_s / max(1, rows.num_rows), dtype=np.float32)
    for name in ("is_retry", repeats.CONTENT_ID.name):
        scored = scored.append_column(name, rows.column(name))
    return scored.append_column(stage_times.MODEL_S, pa.array(share))


def _scored(rows: pa.Table, position: Any, prediction: Any, run: str, layout: Layout) -> pa.Table:
    """SCORES rows with a nullable ``embedding`` at the end.

    ``position`` says which rows the prediction is of.
    """
    element = layout.embeddings.field("embedding").type
    dtype = np.float16 if element.value_type == pa.float16() else np.float32
    with np.errstate(over="ignore"):
        embedding = prediction.embedding.astype(dtype)
    finite = prediction.finite & np.isfinite(embedding).all(axis=1)  # float16 ends at 65,504
    bad, is_of_embedding = position[~finite], ~np.isfinite(embedding).all(axis=1)[~finite]
    codes, details = (
        np.array(rows.column(name).to_pylist(), dtype=object) for name in ("error_code", "error_detail")
    )
    failures = [non_finite(is_embedding=bool(is_of)) for is_of in is_of_embedding]
    codes[bad], details[bad] = [f.code for f in failures], [f.detail for f in failures]
    # Row i of the table takes prediction take[i]; null where there is none.
    take = np.full(rows.num_rows, -1, dtype=np.int64)
    take[position[finite]] = np.flatnonzero(finite)
    indices = pa.array(take, mask=take < 0)
    columns: dict[str, Any] = {name: rows.column(name) for name in (*KEY, "fingerprint")}
    columns["status"] = pa.array([FAILED if code else OK for code in codes])
    columns["error_code"], columns["error_detail"] = (
        pa.array(codes, pa.string()),
        pa.array(details, pa.string()),
    )
    columns["attempts"] = pc.add(rows.column("attempts"), pa.scalar(1, pa.int16()))
    columns["run"] = pa.array([run] * rows.num_rows)
    columns[EMBEDDING_RUN] = pa.array([None if code else run for code in codes], pa.string())
    columns["scored_at"] = pa.array([datetime.now(UTC)] * rows.num_rows, pa.timestamp("us", tz="UTC"))
    for head in layout.heads:
        columns |= {
            name: column.take(indices) for name, column in head.columns(prediction.heads[head.name]).items()
        }
    flat = pa.array(embedding.ravel())
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(flat, type=element).take(indices)
    schema = layout.scores.append(pa.field("embedding", element))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def stage_piece(piece: str, rows: pa.Table, *, out: Folder, origin: Origin, layout: Layout) -> Receipt:
    """Write the rows of ``ScoreImages`` to storage as a piece; return its receipt.

    Safe to run twice: it counts once.
    """
    start = time.monotonic()
    scores = rows.select(layout.scores.names).cast(layout.scores)
    embedded = (
        rows.filter(pc.is_valid(rows.column("embedding")))
        .select(layout.embeddings.names)
        .cast(layout.embeddings)
    )
    return write_piece(
        out,
        origin,
        piece,
        layout,
        scores,
        embedded,
        lambda: stage_times.totals(rows, time.monotonic() - start),
        rows.column("is_retry"),
        repeats.of_piece(rows),
    )
