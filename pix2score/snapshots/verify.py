"""Whether a published snapshot holds what it promises: files, keys, rows, and the keys of its catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
    row_facts,
)
from pix2score.snapshots.config import VerifyConfig
from pix2score.snapshots.damage import damage_of, damages, each_damage
from pix2score.snapshots.dead import Hashes, hashes_of
from pix2score.snapshots.indexes import embeddings_id, numbers_of_indexes, read_index, serves
from pix2score.snapshots.lists import as_files
from pix2score.snapshots.manifest import is_as_published, live, live_number, path_of, read_snapshot
from pix2score.snapshots.read import batches_of
from pix2score.snapshots.snapshot import CarriedColumns, Snapshot
from pix2score.snapshots.tables import (
    FACT_COLUMNS,
    TABLES,
    DataFile,
    Layout,
    scores_facts,
    together,
    validate,
)
from pix2score.snapshots.verify_keys import TASK_BYTES, Embedded, Sums, compare_keys, live_sums, num_ranges
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet
from pix2score.storage.sql import engine, load, one_row
from pix2score.summaries import VerifySummary

GROUP_BYTES, GROUP_FILES = 256 * 2**20, 512
"""Of the files that one task reads."""


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
    found = _check_files(folder, snapshot, promise, workers)
    is_as_said = is_as_published(folder.read(path_of(snapshot.number)), snapshot.manifest)
    problems = found.problems + _check_index(folder, snapshot, workers)
    if not problems:
        problems = _check_content(folder, snapshot, promise, found, workers)
        if config.catalog and is_as_said:  # else who knows what its columns were called
            problems += workers.call(_catalog_problems, folder, snapshot, config.catalog, promise)
    problems += found.miscounted + _check_manifest(snapshot)
    if not problems and not is_as_said:
        problems.append(f"{path_of(snapshot.number)} was altered")  # in what no file can tell
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
        if not snapshot.lists:
            snapshot.files  # noqa: B018 - raises for files that are named in another form
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


def _check_manifest(snapshot: Snapshot) -> list[str]:
    """What the manifest says otherwise than what it says of its files."""
    num_others = 0 if snapshot.lists else snapshot.num_files - len(snapshot.files)
    problems = [f"{path_of(snapshot.number)} names {num_others} files of no table"] if num_others else []
    return problems + _wrong_totals(snapshot)


def _wrong_totals(snapshot: Snapshot) -> list[str]:
    """Totals of the manifest that are not the sums of what it says of its files, as far as it says that."""
    manifest, failed, runs = snapshot.manifest, Counter[str](), Counter[str]()
    kept = 0
    for file in (file for files in snapshot.some_files("scores") for file in files):
        if file.failed is None or file.runs is None:
            return []
        failed.update(file.failed)
        runs.update(file.runs)
        kept += file.kept
    said = {**manifest["counts"], "runs": manifest.get("runs")}
    sums = {"ok": runs.total(), "failed_by_code": {**failed}, "kept": kept, "runs": {**runs}}
    return [
        f"its files have {name} {found}, manifest says {said[name]}"
        for name, found in sums.items()
        if said.get(name) not in (found, None, {})
    ]


def _check_index(folder: Folder, snapshot: Snapshot, executor: Executor) -> list[str]:
    """What is wrong with the index by which ``similar`` answers: its own, or that of another snapshot with
    the same embeddings."""
    problems = list[str]()
    for number in reversed(numbers_of_indexes(folder)):
        try:
            card = read_index(folder, number)
        except DataError as exc:
            if _has_same_embeddings(folder, snapshot, number):
                problems.append(str(exc))
            continue
        if card and serves(card, snapshot):
            calls = [(folder, some, "its index") for some in together(card.files, GROUP_BYTES, GROUP_FILES)]
            return problems + [found for some in executor.each(each_damage, calls) for found in some]
    return problems


def _has_same_embeddings(folder: Folder, snapshot: Snapshot, number: int) -> bool:
    """Whether snapshot ``number`` is there and has the embeddings of ``snapshot``: its card cannot say so."""
    if number in (snapshot.number, *snapshot.same_scores):
        return True
    try:
        return embeddings_id(read_snapshot(folder, number)) == embeddings_id(snapshot)
    except DataError:
        return False


@dataclass(slots=True)
class _Found:
    """What one task found in some files of one table."""

    problems: list[str] = field(default_factory=list)
    miscounted: list[str] = field(default_factory=list)
    """What the manifest says otherwise of files whose content is as it says."""
    facts: RowFacts = field(default_factory=RowFacts)
    embedded: list[Embedded] = field(default_factory=list)
    live: Sums = field(default_factory=Sums)
    """Of the ok rows of scores."""

    def add(self, other: _Found) -> None:
        """Take in what another task found."""
        self.problems += other.problems
        self.miscounted += other.miscounted
        self.facts.add(other.facts)
        self.embedded += other.embedded
        self.live.add(other.live)


def _check_files(folder: Folder, snapshot: Snapshot, promise: Promise, executor: Executor) -> _Found:
    """Every file read once: what is wrong with files, what is in those of scores and of embeddings."""
    number = num_ranges(snapshot)
    calls = [
        (folder, snapshot.layout, snapshot.manifest.get("carry"), promise, some, number)
        for table in TABLES
        for files in snapshot.some_files(table)
        for some in together(files, GROUP_BYTES, GROUP_FILES)
    ]
    found = _Found()
    for one in executor.each(check_files, calls):
        found.add(one)
    return found


def check_files(
    folder: Folder,
    layout: Layout,
    carry: CarriedColumns | None,
    promise: Promise,
    files: Sequence[DataFile],
    number: int,
) -> _Found:
    """One task: content and rows of some files of one table. Keys are summed in ``number`` ranges."""
    found = _Found()
    with engine(TASK_BYTES) as connection:
        if files[0].table == "scores":
            load(connection, "scores", layout.scores, _checked(folder, layout, carry, files, found))
            found.facts = row_facts(connection, promise)
            found.live = live_sums(connection, layout.embedding_run, number)
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
                found.embedded.append(Embedded(file, min(firsts), max(lasts)))
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
                if file.table not in ("scores", "embeddings"):
                    continue
                facts = []
                for batch in opened.iter_batches(columns=names):
                    facts.append(_facts_of(batch, file))
                    yield batch
                found.miscounted += _miscounted(file, [one for one in facts if one is not None])
        except FileNotFoundError:
            found.problems.append(f"{file.path} is missing")
        except DataError as exc:
            found.problems.append(str(exc))


def _facts_of(batch: pa.RecordBatch, file: DataFile) -> pa.Table | None:
    """The columns that its counts are of; None of a file whose counts are not known."""
    if file.table != "scores" or file.runs is None:
        return None
    return pa.Table.from_batches([batch]).select(list(FACT_COLUMNS))


def _miscounted(file: DataFile, rows: Sequence[pa.Table]) -> list[str]:
    """What the manifest says otherwise than the rows of a file do: nights count by it."""
    found = scores_facts(pa.concat_tables(rows)) if rows else {}
    return [
        f"{file.path} has {name} {value}, manifest says {getattr(file, name)}"
        for name, value in found.items()
        if getattr(file, name) != value
    ]


def _check_content(
    folder: Folder, snapshot: Snapshot, promise: Promise, found: _Found, executor: Executor
) -> list[str]:
    """What is wrong with rows, and with the keys of scores, embeddings and dead beside each other."""
    facts = found.facts
    if not facts.are_apart:
        facts.wrong[REPEATED] = executor.call(_num_repeated, folder, snapshot)
    wrong = Counter({NOT_FINITE: facts.wrong.pop(NOT_FINITE, 0)})
    wrong += compare_keys(folder, snapshot, found.embedded, found.live, executor)
    return [*facts.problems(promise), *(f"{count} {what}" for what, count in wrong.items() if count)]


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
