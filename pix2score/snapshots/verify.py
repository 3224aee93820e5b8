"""Checks that a published snapshot holds what it promises: files as listed, keys once, rows well formed,
exactly the catalog's keys."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.catalog.catalog import Columns, open_catalog
from pix2score.catalog.keys import key_fields
from pix2score.catalog.rows import PlanCounts, catalog_rows
from pix2score.errors import IMAGE_ERROR_CODES, RETRIED_ERROR_CODES, ConfigError, DataError, VerifyError
from pix2score.heads.ordered import head_fields
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.manifest import Snapshot, live, live_number
from pix2score.snapshots.read import batches_of
from pix2score.snapshots.tables import DataFile, dead_schema, validate
from pix2score.storage.folder import Folder
from pix2score.storage.sql import engine, load, one_row

_CHUNK_BYTES = 8 * 2**20
_SUM_TOLERANCE = 1e-3  # float32 probabilities of up to 1,000 bins


def verify(config: VerifyConfig) -> dict[str, Any]:
    """Counts of the live snapshot, after every check has passed.

    Raises:
        VerifyError: something is wrong; the message names each thing.
        DataError: no snapshot there, or no such catalog.
    """
    folder = Folder(config.scores)
    snapshot = _readable(config.scores, folder)
    problems = _check_files(folder, snapshot)
    if not problems:
        with engine() as connection:
            _load_keys(connection, folder, snapshot)
            problems = [*_check_rows(connection, snapshot), *_check_embeddings(connection)]
            if config.catalog:
                problems += _check_catalog(connection, config.catalog, snapshot)
    if problems:
        raise VerifyError(f"snapshot {snapshot.number} of {folder.uri}: {'; '.join(problems)}")
    counts = snapshot.manifest["counts"]
    facts = {
        "model_version": snapshot.manifest["model_version"],
        "rows": counts["rows"],
        "failed": counts["failed"],
    }
    return {"job": "verify", "snapshot": snapshot.number, **facts, "files": len(snapshot.files)}


def _readable(place: str, folder: Folder) -> Snapshot:
    """The live snapshot with all parts that the checks need."""
    number = live_number(folder)
    try:
        snapshot = live(place)
        parts = (
            snapshot.files,
            snapshot.layout.scores,
            snapshot.manifest["counts"]["failed"],
            snapshot.manifest["config"]["columns"],
        )
        assert parts
    except (DataError, ConfigError) as exc:
        if not number:
            raise
        raise VerifyError(str(exc)) from None
    except (KeyError, TypeError, AttributeError) as exc:
        raise VerifyError(
            f"manifest of snapshot {number} of {folder.uri} lacks a part or has another form: {exc!r}"
        ) from None
    if snapshot.manifest.get("snapshot") != number:
        raise VerifyError(
            f"manifest of snapshot {number} of {folder.uri} says it is {snapshot.manifest.get('snapshot')}"
        )
    return snapshot


def _check_files(folder: Folder, snapshot: Snapshot) -> list[str]:
    return [problem for file in snapshot.files if (problem := _check_file(folder, snapshot, file))]


def _check_file(folder: Folder, snapshot: Snapshot, file: DataFile) -> str | None:
    try:
        size, digest = _measure(folder, file.path)
        if size != file.bytes:
            return f"{file.path} has {size} bytes, manifest says {file.bytes}"
        if digest != file.sha256:
            return f"{file.path} was altered: sha256 {digest[:12]}…, manifest says {file.sha256[:12]}…"
        with folder.open(file.path) as stream:
            metadata = pq.ParquetFile(stream)
            validate(metadata.schema_arrow, snapshot.layout.schema_of(file.table), file.path)
        if metadata.metadata.num_rows != file.rows:
            return f"{file.path} has {metadata.metadata.num_rows} rows, manifest says {file.rows}"
    except FileNotFoundError:
        return f"{file.path} is missing"
    except (DataError, pa.ArrowInvalid) as exc:
        return str(exc)
    return None


def _measure(folder: Folder, path: str) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    with folder.open(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _load_keys(connection: duckdb.DuckDBPyConnection, folder: Folder, snapshot: Snapshot) -> None:
    """Tables ``scores`` (all columns) and ``embeddings`` (key, run, whether finite)."""
    layout = snapshot.layout
    scores = [f for f in snapshot.files if f.table == "scores"]
    load(connection, "scores", layout.scores, batches_of(folder, snapshot, scores, layout.scores.names))
    facts = [pa.field("run", pa.string()), pa.field("finite", pa.bool_())]
    schema = pa.schema([*(f.with_nullable(True) for f in key_fields(layout.id_type)), *facts])

    def embedding_keys() -> Iterator[pa.RecordBatch]:
        for file in (f for f in snapshot.files if f.table == "embeddings"):
            run = pa.scalar(file.path.split("/")[1])
            for batch in batches_of(folder, snapshot, [file], ["illust_id", "page", "embedding"]):
                columns = [*batch.columns[:2], pa.repeat(run, batch.num_rows), _finite(batch.column(2))]
                yield pa.record_batch(columns, schema=schema)

    load(connection, "embeddings", schema, embedding_keys())
    dead = dead_schema(layout.id_type)
    load(connection, "dead", dead, batches_of(folder, snapshot, snapshot.files_of("dead"), dead.names))


def _finite(embeddings: pa.FixedSizeListArray) -> pa.Array:
    """Whether all numbers of each embedding are finite."""
    numbers = embeddings.flatten().to_numpy(zero_copy_only=False).reshape(len(embeddings), -1)
    return pa.array(np.isfinite(numbers).all(axis=1))


def _check_rows(connection: duckdb.DuckDBPyConnection, snapshot: Snapshot) -> list[str]:
    heads = snapshot.layout.heads
    codes = ", ".join(f"'{code}'" for code in IMAGE_ERROR_CODES)
    retried = ", ".join(f"'{code}'" for code in RETRIED_ERROR_CODES)
    some_head = " OR ".join(f"{field.name} IS NOT NULL" for head in heads for field in head_fields(head))
    counts = snapshot.manifest["counts"]
    tests = {
        "keys that stand more than once": (
            "SELECT illust_id, page FROM scores GROUP BY ALL HAVING count(*) > 1"
        ),
        "rows whose status is neither ok nor failed": (
            "SELECT 1 FROM scores WHERE status NOT IN ('ok', 'failed')"
        ),
        "failed rows without a known error_code": (
            f"SELECT 1 FROM scores WHERE status = 'failed' AND coalesce(error_code, '') NOT IN ({codes})"
        ),
        "failed rows with predictions": f"SELECT 1 FROM scores WHERE status = 'failed' AND ({some_head})",
        "ok rows with an error_code that says more than that new content could not be had": (
            "SELECT 1 FROM scores WHERE status = 'ok' AND error_code IS NOT NULL AND error_code NOT IN "
            f"({retried})"
        ),
    }
    for head in heads:
        tests[f"ok rows whose {head.name} is not a distribution with its argmax"] = _bad_prediction(
            head.name, head.num_bins
        )
    problems = _failing(connection, tests)
    rows, failed = one_row(connection, "SELECT count(*), count(*) FILTER (status = 'failed') FROM scores")
    if (rows, failed) != (counts["rows"], counts["failed"]):
        problems.append(
            f"{rows} rows with {failed} failed, manifest says {counts['rows']} with {counts['failed']}"
        )
    return problems


def _bad_prediction(head: str, num_bins: int) -> str:
    probs = f"{head}_probs::FLOAT[]"
    return (
        f"SELECT 1 FROM scores WHERE status = 'ok' AND coalesce({head}_bin NOT BETWEEN 0 AND {num_bins - 1} "
        f"OR NOT abs(list_sum({probs}) - 1) < {_SUM_TOLERANCE} OR list_min({probs}) < 0 "
        f"OR ({probs})[{head}_bin + 1] < list_max({probs}) OR NOT isfinite({head}_expected) "
        f"OR NOT {head}_score BETWEEN 0 AND 1, true)"
    )


def _check_embeddings(connection: duckdb.DuckDBPyConnection) -> list[str]:
    live_keys = "(SELECT illust_id, page, run FROM scores WHERE status = 'ok')"
    return _failing(
        connection,
        {
            "embeddings with NaN or infinity": "SELECT 1 FROM embeddings WHERE NOT finite",
            "embeddings that are neither live nor listed as dead": (
                f"SELECT 1 FROM embeddings ANTI JOIN {live_keys} USING (illust_id, page, run) ANTI JOIN dead "
                "USING (illust_id, page, run)"
            ),
            "live keys that are listed as dead": (
                f"SELECT 1 FROM {live_keys} SEMI JOIN dead USING (illust_id, page, run)"
            ),
            "ok keys without an embedding": (
                f"SELECT 1 FROM {live_keys} ANTI JOIN embeddings USING (illust_id, page, run)"
            ),
            "live keys with more than one embedding": (
                f"SELECT 1 FROM embeddings SEMI JOIN {live_keys} USING (illust_id, page, run) GROUP BY "
                "illust_id, page HAVING count(*) > 1"
            ),
        },
    )


def _failing(connection: duckdb.DuckDBPyConnection, tests: dict[str, str]) -> list[str]:
    found = {what: one_row(connection, f"SELECT count(*) FROM ({sql})")[0] for what, sql in tests.items()}
    return [f"{number} {what}" for what, number in found.items() if number]


def _check_catalog(connection: duckdb.DuckDBPyConnection, place: str, snapshot: Snapshot) -> list[str]:
    """Keys of the catalog and of the snapshot that the other lacks; columns as recorded in the snapshot."""
    catalog = open_catalog(place, Columns(**snapshot.manifest["config"]["columns"]))
    if not catalog.id_type.equals(snapshot.layout.id_type):
        return [f"the catalog's ids are {catalog.id_type}, the snapshot's {snapshot.layout.id_type}"]
    with catalog_rows(catalog, PlanCounts()) as rows:
        reader = rows.sql("SELECT illust_id, page FROM keyed").to_arrow_reader(65_536)
        load(connection, "wanted", reader.schema, reader)
    problems = []
    for what, left, right in (
        ("catalog keys are not in the snapshot", "wanted", "scores"),
        ("keys are not in the catalog", "scores", "wanted"),
    ):
        lacking = f"FROM {left} ANTI JOIN {right} USING (illust_id, page)"
        number, example = one_row(
            connection, f"SELECT count(*), min(concat_ws(', page ', illust_id, page)) {lacking}"
        )
        if number:
            problems.append(f"{number} {what}, such as id {example}")
    return problems
