"""The dead of a snapshot: keys whose embedding in the files of a run is no longer live.

A night lists them range by range, those of all runs together. ``organised`` files, which ``vacuum`` makes of
many such, hold those of one run in order of a hash of the key, and their names say which:

    dead/<written by>/<of run>/<first hash>-<last hash>-<16 hex digits>.parquet

The hash is that by which a plan is ordered, so that the rows of an embedding file, which follow each other in
the plan, have their dead together: a reader opens few of these files for each of those, and holds a few.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.catalog.keys import KEY
from pix2score.snapshots.tables import DataFile, dead_schema, write_file
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches
from pix2score.storage.sql import engine, in_memory, load, query, side_by_side

Hashes = npt.NDArray[np.uint64]
HASH = "md5_number_lower(concat_ws('/', illust_id, page))"
"""SQL, of a key: ``catalog.planned.order_sql``. Part of the format, as names of files are made of it."""
FILE_ROWS = 1_000_000
"""Of an organised file, some 20 bytes each on disk and 50 in memory."""
PART_ROWS = 4_000_000
"""That one task sorts."""
NUM_READERS = 16
"""Small files read at a time."""
_NAME = re.compile(
    r"dead/[^/]+/(?P<run>[^/]+)/(?P<first>[0-9a-f]{16})-(?P<last>[0-9a-f]{16})-[0-9a-f]+\.parquet"
)


@dataclass(frozen=True, slots=True)
class OfRun:
    """What the name of an organised file says: whose dead it holds, and from which hash to which."""

    run: str
    first: int
    last: int


def of_run(file: DataFile) -> OfRun | None:
    """What the name of a file of the dead says; None for one that holds those of any run."""
    found = _NAME.fullmatch(file.path)
    return OfRun(found["run"], int(found["first"], 16), int(found["last"], 16)) if found else None


def of_runs(files: Iterable[DataFile], runs: Collection[str] | None) -> list[DataFile]:
    """Those of ``files`` of the dead that may hold some of ``runs``; all if it is None."""
    named = ((file, of_run(file)) for file in files)
    return [file for file, name in named if runs is None or name is None or name.run in runs]


def hashes_of(keys: pa.Table) -> Hashes:
    """The hash of each key, by which organised files are sorted. Needs none of Arrow's threads."""
    found = in_memory(f"SELECT {HASH} AS hash FROM keys", keys=keys.select(list(KEY)).to_reader())
    return np.asarray(found.column(0).to_numpy(), dtype=np.uint64)


def dead_batches(
    folder: Folder, files: Sequence[DataFile], id_type: pa.DataType, runs: Collection[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Rows of ``files`` of the dead as ``tables.dead_schema``, several files read at a time.

    None of Arrow's threads is waited for: they may be what asks.

    Of ``runs`` only, if given: then files of other runs are not opened. Raises ``FileNotFoundError``.
    """
    schema = dead_schema(id_type)
    wanted = None if runs is None else pa.array(sorted(runs), pa.string())

    def read(file: DataFile) -> pa.Table:
        batches = parquet_batches(folder, [file.path], schema.names, use_threads=False)
        rows = pa.Table.from_batches(batches).cast(schema)
        return rows if wanted is None else rows.filter(pc.is_in(rows.column("run"), wanted))

    for rows in side_by_side(read, of_runs(files, runs), NUM_READERS):
        yield from rows.to_batches()


def organise(
    folder: Folder,
    run: str,
    id_type: pa.DataType,
    batches: Iterable[pa.RecordBatch],
    bounds: tuple[int, int] | None = None,
) -> list[DataFile]:
    """Write the dead of ``batches`` to organised files in ``folder``, each row once; return them.

    ``run``: that is to have written them. ``bounds``: hashes from the first up to the second, and no others.
    """
    schema = dead_schema(id_type)
    within = "" if bounds is None else f" WHERE hash >= {bounds[0]} AND hash <= {bounds[1]}"
    sql = (
        f"SELECT DISTINCT illust_id, page, run, hash FROM (SELECT *, {HASH} AS hash FROM rows){within} "
        "ORDER BY run, hash, illust_id, page"
    )
    hashed = schema.append(pa.field("hash", pa.uint64()))
    with engine() as connection:
        load(connection, "rows", schema, batches)
        return [
            _write(folder, run, rows.cast(hashed))
            for table in query(connection, sql, hashed, FILE_ROWS)
            for rows in _by_run(table)
        ]


def _by_run(rows: pa.Table) -> Iterator[pa.Table]:
    """Slices of rows of one run, of rows that are sorted by it."""
    runs = rows.column("run").combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.diff(runs, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(runs)], strict=True):
        yield rows.slice(start, stop - start)


def _write(folder: Folder, run: str, rows: pa.Table) -> DataFile:
    hashes = rows.column("hash")
    first, last = hashes[0].as_py(), hashes[-1].as_py()
    name = f"{first:016x}-{last:016x}-{uuid.uuid4().hex[:16]}.parquet"
    return write_file(
        folder, "dead", f"dead/{run}/{rows.column('run')[0].as_py()}/{name}", rows.drop_columns(["hash"])
    )


def organise_calls(
    folder: Folder, run: str, id_type: pa.DataType, files: Sequence[DataFile], runs: Sequence[str]
) -> list[tuple[Folder, str, pa.DataType, list[DataFile], Sequence[str], tuple[int, int]]]:
    """Arguments of ``organise_part`` for each task that makes organised files of ``files``.

    Of ``runs`` alone: embeddings of others are not there any more.
    """
    number = max(1, -(-sum(file.rows for file in files) // PART_ROWS))
    cuts = [2**64 * i // number for i in range(number + 1)]
    bounds = [(low, high - 1) for low, high in pairwise(cuts)]
    return [(folder, run, id_type, overlapping(files, some), runs, some) for some in bounds]


def organise_part(
    folder: Folder,
    run: str,
    id_type: pa.DataType,
    files: Sequence[DataFile],
    runs: Sequence[str],
    bounds: tuple[int, int],
) -> list[DataFile]:
    """One task of ``organise_calls``: safe to run twice, what the other one wrote is named by nobody."""
    return organise(folder, run, id_type, dead_batches(folder, files, id_type, runs), bounds)


def overlapping(files: Sequence[DataFile], bounds: tuple[int, int] | None) -> list[DataFile]:
    """Those of ``files`` of the dead that may hold hashes within ``bounds``; all if it is None."""
    named = ((file, of_run(file)) for file in files)
    return [
        file
        for file, name in named
        if name is None or bounds is None or (name.first <= bounds[1] and name.last >= bounds[0])
    ]
