"""``--resample``: rows of a head's rare classes come more than once in an epoch.

Row by row, as they are read: whether one comes floor(r) or ceil(r) times is decided by a hash of seed, epoch
and its key, so that on any number of workers, and after a resume, the same rows come. Only the first copy
teaches the other heads, which so learn from the data as it is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.catalog.keys import KEY
from pix2score.dataset.card import PreparedDataset
from pix2score.errors import ConfigError
from pix2score.heads.resampling import (
    can_be_resampled,
    is_balanced,
    repeat_factors,
    resampled,
    row_factors,
)
from pix2score.heads.spec import HeadSpec
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_batches

logger = logging.getLogger(__name__)
_READERS = 8
_IN_FLIGHT = 64
"""Shards whose labels are read at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resampling:
    """Which rows come how often."""

    head: HeadSpec
    """The head that it is for, as the rows of an epoch teach it."""
    factors: tuple[float, ...]
    """Times that rows of each class come in an epoch, on average; a row has that of its rarest class."""
    num_rows: float
    """Rows of an epoch, expected."""


def plan_resampling(
    name: str, exponent: float, dataset: PreparedDataset, heads: Sequence[HeadSpec]
) -> Resampling:
    """What ``--resample NAME:EXPONENT`` means for a dataset.

    Of tags the labels of the train split are read: the card does not say which go together.

    Raises ``ConfigError`` for a head that has no classes, or whose loss makes up for rare ones itself.
    """
    by_name = {head.name: head for head in heads}
    head = by_name.get(name)
    if head is None or not can_be_resampled(head):
        able = [n for n, h in by_name.items() if can_be_resampled(h)]
        why = "the dataset has no such head" if head is None else f"kind {head.kind} has no classes"
        raise ConfigError(f"resample {name}: {why}; heads that can be: {', '.join(able) or 'none'}")
    if is_balanced(head):
        raise ConfigError(
            f"resample {name}: its loss makes up for rare classes already ({head.loss}); give it another "
            "loss, or a positive_weight of 1, or leave resample out"
        )
    factor_K = repeat_factors(head, exponent)
    found = resampled(head, _targets(dataset, head), factor_K, dataset.num_rows("train"))
    if factor_K.max() == 1:
        logger.warning("resample %s: its classes are even already; every row comes once", name)
    logger.info(
        "resample %s: rows come up to %.1f times an epoch, %.2f times on average: %.0f rows instead of %d",
        *(name, factor_K.max(), found.num_rows / max(1, dataset.num_rows("train"))),
        *(found.num_rows, dataset.num_rows("train")),
    )
    return Resampling(head=found.head, factors=tuple(factor_K.tolist()), num_rows=found.num_rows)


def _targets(dataset: PreparedDataset, head: HeadSpec) -> Iterator[Any]:
    """Target column of the train split, in parts."""
    paths, column = [part.path for part in dataset.parts("train")], head.target_field().name
    with ThreadPoolExecutor(_READERS) as readers:
        for start in range(0, len(paths), _IN_FLIGHT):
            some = paths[start : start + _IN_FLIGHT]
            for found in readers.map(lambda path: _column(dataset.folder, path, column), some):
                yield from found


def _column(folder: Folder, path: str, name: str) -> list[pa.Array]:
    return [rows.column(name) for rows in parquet_batches(folder, [path], [name])]


def repeated(
    tables: Iterator[pa.Table], heads: Sequence[HeadSpec], plan: Resampling, *, seed: int, epoch: int
) -> Iterator[pa.Table]:
    """Rows of ``dataset.rows.decode_shard`` with their keys, as often as they come in an epoch.

    Copies beyond the first have no label of any other head.
    """
    head = next(h for h in heads if h.name == plan.head.name)
    factor_K = np.asarray(plan.factors)
    for table in tables:
        factor_N = row_factors(head, table.column(head.target_field().name), factor_K)
        times_N = times(factor_N, table, seed, epoch)
        rest = [h for h in heads if h.name != head.name]
        copies = np.repeat(np.arange(len(times_N)), np.maximum(times_N - 1, 0))
        yield table
        if len(copies):
            yield unlabelled(table.take(copies), rest)


def times(factor_N: npt.NDArray[np.float64], table: pa.Table, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """How often each row comes: the factor rounded up or down by chance, a hash of seed, epoch and key."""
    low_N = np.floor(factor_N)
    chance_N, key_N = factor_N - low_N, zip(*(table.column(name).to_pylist() for name in KEY), strict=True)
    up_N = [c > 0 and _uniform(f"{seed}/{epoch}/{key}") < c for c, key in zip(chance_N, key_N, strict=True)]
    return np.asarray(low_N + np.asarray(up_N), dtype=np.int64)


def _uniform(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def unlabelled(table: pa.Table, heads: Sequence[HeadSpec]) -> pa.Table:
    """The rows without the labels of ``heads``."""
    for head in heads:
        for name in (head.target_field().name, f"{head.name}_label"):
            place = table.column_names.index(name)
            table = table.set_column(place, name, pa.nulls(len(table), table.schema.field(place).type))
    return table


def shuffled_batches(
    tables: Iterator[pa.Table], *, batch_rows: int, buffer_rows: int, seed: int
) -> Iterator[pa.Table]:
    """Batches drawn from a buffer of rows, which is kept full; a last incomplete batch is left out.

    The buffer is mixed anew whenever half as many rows again have come.
    """
    mixer, buffer, num_rows = np.random.default_rng(seed), list[pa.Table](), 0
    full = max(batch_rows, buffer_rows)
    for table in tables:
        buffer.append(table)
        num_rows += len(table)
        if num_rows >= full + max(batch_rows, full // 2):
            ready, buffer = _drawn(buffer, mixer, num_rows - full, batch_rows)
            yield from ready
            num_rows = sum(map(len, buffer))
    if num_rows:
        yield from _drawn(buffer, mixer, num_rows, batch_rows)[0]


def _drawn(
    buffer: list[pa.Table], mixer: np.random.Generator, num_rows: int, batch_rows: int
) -> tuple[Iterator[pa.Table], list[pa.Table]]:
    """Whole batches of at most ``num_rows`` rows, in a new order, and the rows that are left."""
    merged = pa.concat_tables(buffer)
    mixed = merged.take(mixer.permutation(len(merged)))
    end = num_rows // batch_rows * batch_rows
    ready = (mixed.slice(start, batch_rows) for start in range(0, end, batch_rows))
    return ready, [mixed.slice(end)] if end < len(mixed) else []
