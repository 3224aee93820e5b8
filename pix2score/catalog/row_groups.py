"""Which rows of a plan of embedded images lie in one row group of the catalog: a task that reads them
together reads it once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.errors import DataError
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import open_parquet
from pix2score.storage.parts import Part

logger = logging.getLogger(__name__)
NUM_READERS = 16  # footers and parts read at a time: on S3 each costs some requests


def row_group_runs(catalog: Folder, plan: Folder, parts: Sequence[Part]) -> list[list[int]]:
    """Per part, the lengths of its runs of rows that lie in one row group, in order.

    Reads two narrow columns of the plan and the footers of the files that it names. A file that cannot be
    read counts as one row group: its rows fail where they are read.
    """
    starts: dict[str, npt.NDArray[np.int64]] = {}
    with ThreadPoolExecutor(NUM_READERS) as pool:
        runs = []
        for some in _chunks(parts):
            tables = list(pool.map(lambda part: _places(plan, part), some))
            files = {
                file for table in tables for file in pc.unique(table.column("file")).to_pylist()
            } - starts.keys()
            starts |= dict(zip(files, pool.map(lambda file: _starts(catalog, file), files), strict=True))
            runs += [_runs(table, starts) for table in tables]
    return runs


def _chunks(parts: Sequence[Part]) -> Iterator[Sequence[Part]]:
    return (parts[i : i + NUM_READERS] for i in range(0, len(parts), NUM_READERS))


def _places(plan: Folder, part: Part) -> pa.Table:
    with open_parquet(plan, part.path) as file:
        return file.read(columns=["file", "row"]).combine_chunks()


def _starts(catalog: Folder, path: str) -> npt.NDArray[np.int64]:
    try:
        with open_parquet(catalog, path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    except (DataError, FileNotFoundError):
        sizes = []
    return np.concatenate([[0], np.cumsum(sizes[:-1])]).astype(np.int64)


def _runs(places: pa.Table, starts: dict[str, npt.NDArray[np.int64]]) -> list[int]:
    """Lengths of the stretches of rows that share file and row group."""
    encoded = pc.dictionary_encode(places.column("file").combine_chunks())
    files, rows = encoded.indices.to_numpy(), places.column("row").to_numpy()
    groups = np.zeros(len(rows), dtype=np.int64)
    for number, path in enumerate(encoded.dictionary.to_pylist()):
        chosen = files == number
        groups[chosen] = np.searchsorted(starts[path], rows[chosen], side="right")
    changes = np.flatnonzero((np.diff(files) != 0) | (np.diff(groups) != 0)) + 1
    return [int(n) for n in np.diff(np.concatenate([[0], changes, [len(rows)]]))]


def task_sizes(runs: Sequence[int], few: int, most: int) -> Iterator[int]:
    """Rows of each task: runs of a row group whole, small ones together up to ``few`` rows; one over ``most``
    is cut evenly."""
    pending = 0
    for run in runs:
        if pending and pending + run > few:
            yield pending
            pending = 0
        if run > most:
            pieces = -(-run // most)
            yield from (run * (i + 1) // pieces - run * i // pieces for i in range(pieces))
        else:
            pending += run
    if pending:
        yield pending


def warn_of_large(runs: Sequence[Sequence[int]], most: int) -> None:
    """Row groups over ``most`` rows are read once by every process that has a part of one: it says so, and
    what to do."""
    largest = max((run for part in runs for run in part), default=0)
    if largest > most:
        logger.warning(
            "a row group of the catalog holds %d or more images: several processes will each read it up to "
            "their own; written with "
            "row_group_size=1000 the catalog is read once",
            largest,
        )
