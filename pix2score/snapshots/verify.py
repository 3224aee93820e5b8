"""Whether a published snapshot holds what it promises: files, keys, rows, and the keys of its catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY, key_fields
from pix2score.errors import ConfigError, DataError, VerifyError
from pix2score.host.executor import Executor, LocalThreads
from pix2score.snapshots.checks import (
    NOT_FINITE,
    REPEATED,
    REPEATED_SQL,
    Promise,
    RowFacts,
    check_catalog,
    key_problems,
    row_facts,
)
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.damage import damage_of, damages
from pix2score.snapshots.dead import Hashes, dead_batches, hashes_of, overlapping
from pix2score.snapshots.indexes import read_indexes
from pix2score.snapshots.lists import as_files
from pix2score.snapshots.manifest import live, live_number
from pix2score.snapshots.read import batches_of
from pix2score.snapshots.snapshot import CarriedColumns, Snapshot
from pix2score.snapshots.tables import OK, TABLES, DataFile, Layout, dead_schema, together, validate
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_batches
from pix2score.storage.sql import engine, load, one_row
from pix2score.summaries import VerifySummary

Bounds: TypeAlias = tuple[int, int]
GROUP_BYTES, GROUP_FILES = 256 * 2**20, 512
"""Of the files that one task reads."""
PART_ROWS = 32_000_000
"""Keys that one task compares, of scores and embeddings together: each task reads all keys of scores."""
TASK_BYTES = 512 * 2**20
"""Memory of a task's DuckDB."""


def verify(config: VerifyConfig) -> VerifySummary:
    """Check the live snapshot; return its counts, after every check has passed.

    Raises:
        VerifyError: something is wrong; the message names each thing.
        DataError: no snapshot there, or no such catalog.
    """
    return verify_on(config, LocalThreads())


def verify_on(config: VerifyConfig, workers: Executor) -> VerifySummary:
    """As ``verify``; ``workers`` read files and compare keys."""
    folder = Folder(config.scores)
    snapshot, promise = _readable(config.scores, folder)
    problems, facts, embedded = _check_files(folder, snapshot, promise, workers)
    problems += _check_index(folder, snapshot)
    if not problems:
        problems = _check_content(folder, snapshot, promise, facts, embedded, workers)
        if config.catalog:
            problems += workers.call(_catalog_problems, folder, snapshot, config.catalog, promise)
    if problems:
        raise VerifyError(f"snapshot {snapshot.number} of {folder.uri}: {'; '.join(problems)}")
    return {
        "job": "verify",
        "snapshot": snapshot.number,
        "model_version": promise.model_version,
        "rows": promise.rows,
        "failed": promise.failed,
        "pending": promise.pending,
        "files": snapshot.num_files,
    }


def _readable(place: str, folder: Folder) -> tuple[Snapshot, Promise]:
    """The live snapshot and what it promises.

    Raises ``VerifyError`` if its manifest lacks a part that the checks need.
    """
    number = live_number(folder)
    try:
        snapshot = live(place)
        if found := damages(folder, as_files(snapshot.lists)):
            raise DataError(f"snapshot {number} of {folder.uri}: {'; '.join(found)}")
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


@dataclass(frozen=True, slots=True)
class _Embedded:
    """An embedding file, and the smallest and greatest hash of its keys."""

    file: DataFile
    first: int
    last: int


def _check_index(folder: Folder, snapshot: Snapshot) -> list[str]:
    """What is wrong with the files of the snapshot's index, if it has one."""
    card = read_indexes(folder).get(snapshot.number)
    found = (damage_of(folder, file, "its index") for file in card.files) if card else ()
    return [problem for problem in found if problem]


@dataclass(slots=True)
class _Found:
    """What one task found in some files of one table."""

    problems: list[str] = field(default_factory=list)
    facts: RowFacts = field(default_factory=RowFacts)
    embedded: list[_Embedded] = field(default_factory=list)


def _check_files(
    folder: Folder, snapshot: Snapshot, promise: Promise, executor: Executor
) -> tuple[list[str], RowFacts, list[_Embedded]]:
    """Every file read once: what is wrong with files, what is in those of scores and of embeddings."""
    calls = [
        (folder, snapshot.layout, snapshot.manifest.get("carry"), promise, some)
        for table in TABLES
        for files in snapshot.some_files(table)
        for some in together(files, GROUP_BYTES, GROUP_FILES)
    ]
    found = _Found()
    for one in executor.each(check_files, calls):
        found.problems += one.problems
        found.facts.add(one.facts)
        found.embedded += one.embedded
    return found.problems, found.facts, found.embedded


def check_files(
    folder: Folder,
    layout: Layout,
    carry: CarriedColumns | None,
    promise: Promise,
    files: Sequence[DataFile],
) -> _Found:
    """One task: content and rows of some files of one table."""
    found = _Found()
    with engine(TASK_BYTES) as connection:
        if files[0].table == "scores":
            load(connection, "scores", layout.scores, _checked(folder, layout, carry, files, found))
            found.facts = row_facts(connection, promise)
            return found
        for file in files:
            hashes = [
                _hashes_of_finite(batch, found)
                for batch in _checked(folder, layout, carry, [file], found)
                if file.table == "embeddings" and batch.num_rows
            ]
            if hashes:
                bounds = [(int(some.min()), int(some.max())) for some in hashes]
                firsts, lasts = zip(*bounds, strict=True)
                found.embedded.append(_Embedded(file, min(firsts), max(lasts)))
    return found


def _hashes_of_finite(batch: pa.RecordBatch, found: _Found) -> Hashes:
    """Hashes of the keys of a batch of embeddings; those that are not finite are counted."""
    found.facts.wrong[NOT_FINITE] += int((~_finite(batch.column("embedding"))).sum())
    return hashes_of(pa.Table.from_batches([batch]))


def _checked(
    folder: Folder,
    layout: Layout,
    carry: CarriedColumns | None,
    files: Sequence[DataFile],
    found: _Found,
) -> Iterator[pa.RecordBatch]:
    """Rows of the files that are as the manifest says; what is wrong with others is in ``found``."""
    for file in files:
        names = layout.schema_of(file.table).names
        try:
            if damage := damage_of(folder, file):
                raise DataError(damage)
            with open_parquet(folder, file.path) as opened:
                expected = _expected(layout, carry, file, opened.schema_arrow)
                validate(opened.schema_arrow, expected, file.path)
                if opened.metadata.num_rows != file.rows:
                    raise DataError(
                        f"{file.path} has {opened.metadata.num_rows} rows, manifest says {file.rows}"
                    )
                yield from (
                    opened.iter_batches(columns=names) if file.table in ("scores", "embeddings") else ()
                )
        except FileNotFoundError:
            found.problems.append(f"{file.path} is missing")
        except DataError as exc:
            found.problems.append(str(exc))


def _check_content(
    folder: Folder,
    snapshot: Snapshot,
    promise: Promise,
    facts: RowFacts,
    embedded: Sequence[_Embedded],
    executor: Executor,
) -> list[str]:
    """What is wrong with rows, and with the keys of scores, embeddings and dead beside each other."""
    if not facts.are_apart:
        facts.wrong[REPEATED] = executor.call(_num_repeated, folder, snapshot)
    number = max(1, -(-(promise.rows + sum(one.file.rows for one in embedded)) // PART_ROWS))
    cuts = [2**64 * i // number for i in range(number + 1)]
    bounds = [(low, high - 1) for low, high in pairwise(cuts)] if number > 1 else [None]
    scores, dead = snapshot.files_of("scores"), snapshot.files_of("dead")
    calls = [
        (folder, snapshot.layout, scores, _within(embedded, some), overlapping(dead, some), some)
        for some in bounds
    ]
    wrong = Counter({NOT_FINITE: facts.wrong.pop(NOT_FINITE, 0)})
    for one in executor.each(check_keys, calls):
        wrong.update(one)
    return [*facts.problems(promise), *(f"{count} {what}" for what, count in wrong.items() if count)]


def _within(embedded: Sequence[_Embedded], bounds: Bounds | None) -> list[DataFile]:
    return [
        one.file for one in embedded if bounds is None or (one.first <= bounds[1] and one.last >= bounds[0])
    ]


def check_keys(
    folder: Folder,
    layout: Layout,
    scores: Sequence[DataFile],
    embeddings: Sequence[DataFile],
    dead: Sequence[DataFile],
    bounds: Bounds | None,
) -> Counter[str]:
    """One task: keys whose hash is within ``bounds``, each with the run of its embedding."""
    schema = dead_schema(layout.id_type)
    tables = {
        "live": _live_keys(folder, layout, scores),
        "embeddings": _embedded_keys(folder, embeddings),
        "dead": (pa.Table.from_batches([batch]) for batch in dead_batches(folder, dead, layout.id_type)),
    }
    with engine(TASK_BYTES) as connection:
        for name, rows in tables.items():
            some = (batch for table in rows for batch in _of_bounds(table, bounds).cast(schema).to_batches())
            load(connection, name, schema, some)
        return key_problems(connection)


def _of_bounds(keys: pa.Table, bounds: Bounds | None) -> pa.Table:
    if bounds is None or not keys.num_rows:
        return keys
    hashes = hashes_of(keys)
    return keys.filter(pa.array((hashes >= bounds[0]) & (hashes <= bounds[1])))


def _live_keys(folder: Folder, layout: Layout, files: Sequence[DataFile]) -> Iterator[pa.Table]:
    columns = [*KEY, layout.embedding_run, "status"]
    for batch in parquet_batches(folder, [file.path for file in files], columns):
        rows = pa.Table.from_batches([batch]).filter(pc.field("status") == OK)
        # Null is the run of no embedding, and verify says so: a text that is none
        runs = pc.fill_null(rows.column(layout.embedding_run), "")
        yield pa.table([*(rows.column(name) for name in KEY), runs], names=[*KEY, "run"])


def _embedded_keys(folder: Folder, files: Sequence[DataFile]) -> Iterator[pa.Table]:
    for file in files:
        for batch in parquet_batches(folder, [file.path], list(KEY)):
            rows = pa.Table.from_batches([batch])
            yield rows.append_column("run", pa.repeat(pa.scalar(file.run), batch.num_rows))


def _load_score_keys(connection: duckdb.DuckDBPyConnection, folder: Folder, snapshot: Snapshot) -> None:
    """Table ``scores`` with nothing but keys."""
    schema = pa.schema(key_fields(snapshot.layout.id_type))
    load(connection, "scores", schema, batches_of(folder, snapshot, snapshot.files_of("scores"), list(KEY)))


def _num_repeated(folder: Folder, snapshot: Snapshot) -> int:
    with engine() as connection:
        _load_score_keys(connection, folder, snapshot)
        return int(one_row(connection, f"SELECT count(*) FROM ({REPEATED_SQL})")[0])


def _catalog_problems(folder: Folder, snapshot: Snapshot, place: str, promise: Promise) -> list[str]:
    with engine() as connection:
        _load_score_keys(connection, folder, snapshot)
        return check_catalog(connection, place, promise)


def _expected(layout: Layout, carry: CarriedColumns | None, file: DataFile, found: pa.Schema) -> pa.Schema:
    """Schema of a file, with what the scores table has of the catalog."""
    schema = layout.schema_of(file.table)
    if file.table != "scores" or not carry:
        return schema
    for name, kind in carry["columns"].items():
        if name not in found.names or str(found.field(name).type) != kind:
            raise DataError(f"{file.path} lacks {name} of type {kind}, which it has from the catalog")
        schema = schema.append(found.field(name))
    return schema


def _finite(embeddings: pa.FixedSizeListArray) -> npt.NDArray[np.bool_]:
    """Whether all numbers of each embedding are finite."""
    numbers = embeddings.flatten().to_numpy(zero_copy_only=False).reshape(len(embeddings), -1)
    return np.asarray(np.isfinite(numbers).all(axis=1))
