"""Embedding files rewritten with live rows only, and the files of the dead put in order.

Of runs whose rows are mostly superseded, and of runs that left many small files. What a task rewrites says
nothing that was not said before, so that it is published upon whatever is live by then: a night that
published meanwhile stays as it is, and so does the work of hours.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.host.executor import Executor
from pix2score.snapshots.dead import OfRun, of_run, of_runs, organise_calls, organise_part
from pix2score.snapshots.lookup import DeadKeys
from pix2score.snapshots.replace import Replacement, publish_replaced
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import (
    EMBEDDING_RUN,
    DataFile,
    Layout,
    dead_schema,
    together,
    unique_path,
    write_file,
)
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet, parquet_batches

logger = logging.getLogger(__name__)

MOSTLY_DEAD = 0.5
FILE_BYTES = 64 * 2**20
"""Of a file that small ones are merged into: what a piece of a GPU run holds."""
MANY_SMALL = 16
"""Files of one run of under half of ``FILE_BYTES`` that are worth merging: pieces of CPU runs hold 512 rows,
2 MB."""
MERGED_BYTES = 4 * 2**30
"""Of small files that one call merges, so that it ends in minutes; the rest is for the next."""
STEP_BYTES = 16 * 2**30
"""Of embedding files that are rewritten between two publications: what a kill costs at most."""
MANY_LOOSE = 64
"""Files with the dead of all runs that are worth putting in order: so many are read in a second."""


@dataclass(frozen=True, slots=True)
class _Group:
    """Files of one run that one task rewrites."""

    run: str
    files: tuple[DataFile, ...]
    drops: bool = False
    """Whether dead rows are left out, as all files of the run are rewritten."""
    keeps_returnable: bool = False
    """Whether those of removed rows stay, as the run is more than one step: where it is one, the files of the
    dead go with them, and say that the rows cannot come back."""

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def compact(folder: Folder, snapshot: Snapshot, forgotten: Collection[str], executor: Executor) -> int:
    """Publish the same scores with the chosen embedding files rewritten; return how many were.

    The new snapshots do not name the ``forgotten`` files. A run at work builds upon them when it publishes,
    and they upon one that published meanwhile.
    """
    snapshot = _with_dead_in_order(folder, snapshot, executor)
    returnable = _returnable(snapshot, forgotten)
    chosen, done = _chosen(snapshot, executor.call(_count_by_run, folder, returnable)), 0
    steps = list(_steps(chosen))
    if not steps and {*forgotten} & {file.path for file in snapshot.files_of("removed")}:
        steps = [[]]
    for step in steps:
        try:
            replaced = _rewritten(folder, snapshot, step, returnable, executor)
            dropped = {group.run for group in step if group.drops}
            dead = _without_gone(folder, snapshot, replaced, dropped, executor)
        except FileNotFoundError as exc:
            logger.info("a file went while embeddings were compacted, they stay as they are: %s", exc)
            return done
        published = publish_replaced(folder, snapshot, replaced, dead, forgotten)
        if published is None:
            return done
        snapshot = published
        done += sum(len(group.files) for group in step)
    return done


def _with_dead_in_order(folder: Folder, snapshot: Snapshot, executor: Executor) -> Snapshot:
    """The live snapshot, after its loose files of the dead were organised if they are many."""
    named: list[tuple[DataFile, OfRun | None]] = [(file, of_run(file)) for file in snapshot.files_of("dead")]
    loose = [file for file, name in named if name is None]
    placed = [file for file, name in named if name]
    if len(loose) <= MANY_LOOSE:
        return snapshot
    is_little = 4 * sum(file.rows for file in loose) < sum(file.rows for file in placed)
    old = loose if is_little else [*loose, *placed]
    dead = _organised(folder, snapshot, old, sorted(_runs_with_dead(snapshot, ())), executor)
    return publish_replaced(folder, snapshot, [], dead, ()) or snapshot


def _organised(
    folder: Folder, snapshot: Snapshot, old: Sequence[DataFile], runs: Sequence[str], executor: Executor
) -> Replacement:
    calls = organise_calls(folder, str(snapshot.manifest["run"]), snapshot.layout.id_type, old, runs)
    new = [file for files in executor.each(organise_part, calls) for file in files]
    logger.info("%d files of the dead are put in order as %d", len(old), len(new))
    return Replacement(tuple(old), tuple(new))


def _without_gone(
    folder: Folder,
    snapshot: Snapshot,
    replaced: Sequence[Replacement],
    dropped: set[str],
    executor: Executor,
) -> Replacement | None:
    """The files of the dead without those of the ``dropped`` runs of which no dead row is in any file now."""
    runs, files = _runs_with_dead(snapshot, replaced), snapshot.files_of("dead")
    gone = dropped - runs
    if not gone or (gone != dropped and any(one.needs_dead for one in replaced)):
        return None
    placed = [file for file in files if (name := of_run(file)) and name.run in gone]
    loose = [file for file in files if of_run(file) is None]
    if not runs:
        return Replacement(tuple(files), ())
    if not loose:
        return Replacement(tuple(placed), ())
    rest = _organised(folder, snapshot, loose, sorted(runs), executor)
    return Replacement((*placed, *loose), rest.new)


def _runs_with_dead(snapshot: Snapshot, replaced: Sequence[Replacement]) -> set[str]:
    """Runs with more rows in their files than are live, once ``replaced`` is; all whose count is not
    known."""
    rows = Counter[str]()
    for file in snapshot.files_of("embeddings"):
        rows[file.run] += file.rows
    for one in replaced:
        for file in one.old:
            rows[file.run] -= file.rows
        for file in one.new:
            rows[file.run] += file.rows
    alive = snapshot.manifest.get("runs", {})
    return {run for run, number in rows.items() if number != alive.get(run)}


def _returnable(snapshot: Snapshot, forgotten: Collection[str]) -> list[DataFile]:
    """Files of removed rows that may come back: their embeddings stay, though they are dead."""
    return [file for file in snapshot.files_of("removed") if file.path not in forgotten]


def _count_by_run(folder: Folder, files: Sequence[DataFile]) -> Counter[str]:
    """Rows of files of removed rows, by the run of their embedding."""
    found = Counter[str]()
    for file in files:
        made_by = EMBEDDING_RUN if file.version > 1 else "run"
        for batch in parquet_batches(folder, [file.path], [made_by]):
            for entry in batch.column(0).value_counts().to_pylist():
                found[entry["values"]] += entry["counts"]
    return found


def _chosen(snapshot: Snapshot, returnable: Counter[str]) -> list[_Group]:
    """What to rewrite: all of a run that is mostly superseded, the small files of a run that has many."""
    alive, budget = snapshot.manifest.get("runs", {}), MERGED_BYTES
    by_run: dict[str, list[DataFile]] = defaultdict(list)
    for file in snapshot.files_of("embeddings"):
        by_run[file.run].append(file)
    groups: list[_Group] = []
    for run, files in by_run.items():
        rows = sum(file.rows for file in files)
        is_large = sum(file.bytes for file in files) > STEP_BYTES
        stay = alive.get(run, rows) + (returnable[run] if is_large else 0)
        small = [file for file in files if file.bytes < FILE_BYTES // 2]
        if rows - stay > MOSTLY_DEAD * rows:
            some = together(files, FILE_BYTES * min(4.0, rows / max(1, stay)))
            groups += [_Group(run, one, drops=True, keeps_returnable=is_large) for one in some]
        elif len(small) >= MANY_SMALL and budget > 0:
            budget -= sum(file.bytes for file in small)
            is_whole = len(small) == len(files)
            groups += [
                _Group(run, one, drops=is_whole, keeps_returnable=is_large)
                for one in together(small, FILE_BYTES)
            ]
    return groups


def _steps(groups: Sequence[_Group]) -> Iterator[list[_Group]]:
    """About ``STEP_BYTES`` at a time; a run of no more is whole in one, a larger one is by itself."""
    step, size = list[_Group](), 0
    for _, some in groupby(groups, key=lambda group: group.run):
        together = list(some)
        is_large = together[0].keeps_returnable
        if step and (is_large or size + sum(one.bytes for one in together) > STEP_BYTES):
            yield step
            step, size = [], 0
        for group in together:
            if step and is_large and size + group.bytes > STEP_BYTES:
                yield step
                step, size = [], 0
            step.append(group)
            size += group.bytes
        if is_large:
            yield step
            step, size = [], 0
    if step:
        yield step


def _rewritten(
    folder: Folder,
    snapshot: Snapshot,
    step: Sequence[_Group],
    returnable: Sequence[DataFile],
    executor: Executor,
) -> list[Replacement]:
    dead = snapshot.files_of("dead")
    calls = [
        (
            folder,
            snapshot.layout,
            group.run,
            group.files,
            of_runs(dead, {group.run}) if group.drops else [],
            returnable if group.keeps_returnable else [],
        )
        for group in step
    ]
    made = zip(step, executor.each(rewrite_files, calls), strict=True)
    needs_dead = {group.run: bool(returnable) and not group.keeps_returnable for group in step}
    return [replace(one, needs_dead=group.drops and needs_dead[group.run]) for group, one in made]


def rewrite_files(
    folder: Folder,
    layout: Layout,
    run: str,
    files: Sequence[DataFile],
    dead: Sequence[DataFile],
    returnable: Sequence[DataFile],
) -> Replacement:
    """One task: rows of some embedding files of a run in one new file, sorted by key.

    Without those that are ``dead``, unless they are among the removed rows of ``returnable``. Safe to run
    twice: what the other one wrote is named by nobody.
    """
    gone = DeadKeys(folder, dead, layout.id_type)
    back = DeadKeys.of_rows(_of_run(folder, returnable, layout.id_type, run), layout.id_type)
    tables = [layout.embeddings.empty_table()]
    for file in files:
        rows = _rows(folder, file).cast(layout.embeddings)
        keys = [rows.column(name) for name in KEY]
        stays = ~gone.are_dead(run, *keys) | back.are_dead(run, *keys)
        tables.append(rows if stays.all() else rows.filter(pa.array(stays)))
    kept = pa.concat_tables(tables)
    if not kept.num_rows:
        return Replacement(tuple(files), ())
    ordered = kept.sort_by([(name, "ascending") for name in KEY])
    new = write_file(folder, "embeddings", unique_path("embeddings", run), ordered)
    return Replacement(tuple(files), (new,))


def _rows(folder: Folder, file: DataFile) -> pa.Table:
    with open_parquet(folder, file.path) as opened:
        return opened.read()


def _of_run(folder: Folder, files: Sequence[DataFile], id_type: pa.DataType, run: str) -> pa.Table:
    """Keys of removed rows whose embedding ``run`` made, as ``dead_schema``."""
    tables = [dead_schema(id_type).empty_table()]
    for file in files:
        made_by = EMBEDDING_RUN if file.version > 1 else "run"
        for batch in parquet_batches(folder, [file.path], [*KEY, made_by]):
            rows = pa.Table.from_batches([batch]).rename_columns([*KEY, "run"])
            tables.append(rows.filter(pc.equal(rows.column("run"), run)).cast(tables[0].schema))
    return pa.concat_tables(tables)
