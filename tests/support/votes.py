"""A head of votes and labels for it, for the tests of kind ``distribution``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.heads.distribution import DistributionHead
from pix2score.heads.spec import LabelColumn
from pix2score.metrics.protocol import Answers
from pix2score.storage.arrow import fixed_lists

HEAD = DistributionHead(name="votes", vote_columns=("no", "so", "yes"), values=(-1.0, 0.0, 2.0))
COLUMNS = [LabelColumn(name, pa.float64()) for name in ("a", "b", "c")]


def votes(num: int, seed: int = 0, most: int = 40) -> npt.NDArray[np.float32]:
    """Votes [N, 3] of images that differ in what people think of them."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet((1.0, 2.0, 1.0), num)
    return rng.multinomial(rng.integers(5, most, num), shares).astype(np.float32)


def fitted(labels_NK: npt.NDArray[np.float32], head: DistributionHead = HEAD) -> DistributionHead:
    """``head`` with what it learns from these votes."""
    with duckdb.cursor() as connection:
        table = pa.table({"label": fixed_lists(labels_NK)})
        connection.register("given", table)
        connection.execute("CREATE TEMP TABLE labels AS FROM given")

        def query(sql: str) -> Iterator[pa.RecordBatch]:
            yield from connection.sql(sql).to_arrow_reader(1000)

        return head.fit(query)


def sql_of(select: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
    """``select`` over a table with columns a, b, c that holds ``rows``: its first column."""
    with duckdb.cursor() as connection:
        connection.execute("CREATE TEMP TABLE t (a DOUBLE, b DOUBLE, c DOUBLE)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
        return [row[0] for row in connection.execute(f"SELECT {select} FROM t").fetchall()]


def answers_of(num: int, seed: int = 0, noise: float = 0.5) -> Answers:
    """Answers that know something of the votes."""
    given = votes(num, seed)
    head = fitted(given)
    logits = np.log(given + 1) + np.random.default_rng(seed + 1).normal(0, noise, given.shape)
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    target = head.targets(pa.chunked_array([head.encode(fixed_lists(given))]))
    return Answers(head, log_probs, target, given.astype(np.float64), np.arange(num))
