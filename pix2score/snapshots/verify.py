"""Whether a published snapshot holds what it promises: files, keys, rows, and the keys of its catalog."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.catalog.keys import key_fields
from pix2score.errors import ConfigError, DataError, VerifyError
from pix2score.snapshots.checks import Promise, check_catalog, check_embeddings, check_rows
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.damage import damage_of
from pix2score.snapshots.indexes import read_indexes
from pix2score.snapshots.manifest import Snapshot, live, live_number
from pix2score.snapshots.read import batches_of
from pix2score.snapshots.tables import DataFile, dead_schema, validate
from pix2score.storage.folder import Folder
from pix2score.storage.sql import engine, load
from pix2score.summaries import VerifySummary


def verify(config: VerifyConfig) -> VerifySummary:
    """Check the live snapshot; return its counts, after every check has passed.

    Raises:
        VerifyError: something is wrong; the message names each thing.
        DataError: no snapshot there, or no such catalog.
    """
    folder = Folder(config.scores)
    snapshot, promise = _readable(config.scores, folder)
    problems = [*_check_files(folder, snapshot), *_check_index(folder, snapshot)]
    if not problems:
        with engine() as connection:
            _load_keys(connection, folder, snapshot)
            problems = [
                *check_rows(connection, promise),
                *check_embeddings(connection, promise.embedding_run),
            ]
            if config.catalog:
                problems += check_catalog(connection, config.catalog, promise)
    if problems:
        raise VerifyError(f"snapshot {snapshot.number} of {folder.uri}: {'; '.join(problems)}")
    return {
        "job": "verify",
        "snapshot": snapshot.number,
        "model_version": promise.model_version,
        "rows": promise.rows,
        "failed": promise.failed,
        "pending": promise.pending,
        "files": len(promise.files),
    }


def _readable(place: str, folder: Folder) -> tuple[Snapshot, Promise]:
    """The live snapshot and what it promises.

    Raises ``VerifyError`` if its manifest lacks a part that the checks need.
    """
    number = live_number(folder)
    try:
        snapshot = live(place)
        promise = Promise.of(snapshot)
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
    return snapshot, promise


def _check_files(folder: Folder, snapshot: Snapshot) -> list[str]:
    return [problem for file in snapshot.files if (problem := _check_file(folder, snapshot, file))]


def _check_index(folder: Folder, snapshot: Snapshot) -> list[str]:
    """What is wrong with the files of the snapshot's index, if it has one."""
    card = read_indexes(folder).get(snapshot.number)
    found = (damage_of(folder, file, "its index") for file in card.files) if card else ()
    return [problem for problem in found if problem]


def _check_file(folder: Folder, snapshot: Snapshot, file: DataFile) -> str | None:
    if damage := damage_of(folder, file):
        return damage
    try:
        with folder.open(file.path) as stream:
            metadata = pq.ParquetFile(stream)
            validate(metadata.schema_arrow, _expected(snapshot, file, metadata.schema_arrow), file.path)
        if metadata.metadata.num_rows != file.rows:
            return f"{file.path} has {metadata.metadata.num_rows} rows, manifest says {file.rows}"
    except FileNotFoundError:
        return f"{file.path} is missing"
    except (DataError, pa.ArrowInvalid) as exc:
        return str(exc)
    return None


def _expected(snapshot: Snapshot, file: DataFile, found: pa.Schema) -> pa.Schema:
    """Schema of a file, with what the scores table has of the catalog."""
    schema, carry = snapshot.layout.schema_of(file.table), snapshot.manifest.get("carry")
    if file.table != "scores" or not carry:
        return schema
    for name, kind in carry["columns"].items():
        if name not in found.names or str(found.field(name).type) != kind:
            raise DataError(f"{file.path} lacks {name} of type {kind}, which it has from the catalog")
        schema = schema.append(found.field(name))
    return schema


def _load_keys(connection: duckdb.DuckDBPyConnection, folder: Folder, snapshot: Snapshot) -> None:
    """Tables ``scores`` (all columns) and ``embeddings`` (key, run, whether finite)."""
    layout = snapshot.layout
    scores = snapshot.files_of("scores")
    load(connection, "scores", layout.scores, batches_of(folder, snapshot, scores, layout.scores.names))
    facts = [pa.field("run", pa.string()), pa.field("finite", pa.bool_())]
    schema = pa.schema([*(f.with_nullable(True) for f in key_fields(layout.id_type)), *facts])

    def embedding_keys() -> Iterator[pa.RecordBatch]:
        for file in snapshot.files_of("embeddings"):
            run = pa.scalar(file.run)
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
