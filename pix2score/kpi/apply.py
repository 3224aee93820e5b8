"""Writes what a fitted model expects of every live embedding: a table of its own, joined by key.

    kpi/<run>/part-*.parquet   illust_id, page, kpi_expected (float64, in the KPI's own unit), kpi_score
                               (float32, its place in 0..1 among the rows held out when the model was fitted)
    kpi/<run>.json             what the job tells; written last: without it the table is not whole

Streams: what is held at a time is a block of embeddings and the answers of a part.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pix2score.catalog.keys import key_fields
from pix2score.cli.flags import as_plain
from pix2score.cli.summary import recorded
from pix2score.errors import ConfigError, DataError
from pix2score.kpi.config import KpiConfig
from pix2score.kpi.features import Features
from pix2score.kpi.labels import Labels, open_labels
from pix2score.kpi.models import Fitted, load
from pix2score.kpi.rows import PlainColumns, Source, open_source, plain_columns
from pix2score.snapshots.manifest import new_run_id
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes

logger = logging.getLogger(__name__)
PART_ROWS = 500_000


def apply(config: KpiConfig, part_rows: int = PART_ROWS) -> dict[str, Any]:
    """Write the table of the live snapshot; return where it is and how many rows it has.

    Raises:
        DataError: no fitted model, no snapshot, or one of another model than it was fitted on.
        ConfigError: the model needs side columns and no ``labels`` are given.
    """
    fitted, version = load(str(config.apply))
    source = open_source(config.scores)
    _check_fits(config, fitted, source)
    labels = _side_labels(config, fitted.features)
    out, run = Folder(config.out or config.scores), new_run_id(time.strftime("%Y%m%dT%H%M%S", time.gmtime()))
    facts = {"job": "kpi", "run": run, "out": out.full(f"kpi/{run}"), "kpi_version": version}
    with recorded(out, f"runs/{run}/summary.json", facts) as summary:
        summary.update(snapshot=source.snapshot, model_version=source.model_version)
        summary.update(_write(out, run, part_rows, fitted, source, labels))
        done = {**summary, "config": as_plain(config)}
        out.publish(f"kpi/{run}.json", json.dumps(done, indent=1, ensure_ascii=False).encode())
    return summary


def _check_fits(config: KpiConfig, fitted: Fitted, source: Source) -> None:
    dim = fitted.features.embedding_dim
    if dim and dim != source.layout.embedding_dim:
        raise DataError(
            f"{config.apply} was fitted on embeddings of {dim} numbers; those of {config.scores} have "
            f"{source.layout.embedding_dim}: fit it again"
        )
    if fitted.model_version != source.model_version:
        raise DataError(
            f"{config.apply} was fitted on embeddings of model {fitted.model_version}; {config.scores} was "
            f"scored with {source.model_version}, whose embeddings mean other things: fit it again"
        )


def _side_labels(config: KpiConfig, features: Features) -> Labels | None:
    names = [column.name for column in features.side]
    if not names:
        return None
    if config.labels is None:
        raise ConfigError(
            f"{config.apply} predicts from {', '.join(names)}, too: give --labels, a table with illust_id "
            "and these columns"
        )
    labels = open_labels(config.labels, names, with_kpi=False)
    other = [a.name for a, b in zip(labels.side, features.side, strict=True) if a.is_text != b.is_text]
    if other:
        raise DataError(f"labels {config.labels}: {', '.join(other)} held another type when it was fitted")
    return labels


def _write(
    out: Folder, run: str, part_rows: int, fitted: Fitted, source: Source, labels: Labels | None
) -> dict[str, Any]:
    features, rows, num_parts = fitted.features, 0, 0
    with plain_columns(source, features.scores, features.side, labels) as plain:
        for table in _parts(_answers(fitted, source, plain), part_rows):
            out.publish(f"kpi/{run}/part-{num_parts:05}.parquet", parquet_bytes(table))
            rows, num_parts = rows + table.num_rows, num_parts + 1
            logger.info("%d rows written", rows)
    if not rows:
        raise DataError(f"{source.place}: snapshot {source.snapshot} has no live embedding")
    return {"rows": rows, "parts": num_parts}


def _answers(fitted: Fitted, source: Source, plain: PlainColumns | None) -> Iterator[pa.RecordBatch]:
    features, first = fitted.features, 0
    fields = [pa.field("kpi_expected", pa.float64()), pa.field("kpi_score", pa.float32())]
    schema = pa.schema([*key_fields(source.layout.id_type), *fields])
    for batch in source.blocks(*(["embedding"] if features.embedding_dim else [])):
        rows_NF = np.empty((batch.num_rows, features.width), np.float32)
        columns = plain.of(first, batch.num_rows) if plain else None
        features.fill(rows_NF, batch.column(2) if features.embedding_dim else None, columns)
        expected_N, score_N = fitted.answer(rows_NF)
        answers = [pa.array(expected_N), pa.array(score_N.astype(np.float32))]
        yield pa.record_batch([*batch.columns[:2], *answers], schema=schema)
        first += batch.num_rows


def _parts(batches: Iterator[pa.RecordBatch], part_rows: int) -> Iterator[pa.Table]:
    """Tables of at least ``part_rows`` rows, but for the last."""
    pending: list[pa.RecordBatch] = []
    for batch in batches:
        pending.append(batch)
        if sum(one.num_rows for one in pending) >= part_rows:
            yield pa.Table.from_batches(pending)
            pending = []
    if pending:
        yield pa.Table.from_batches(pending)
