"""The labelled rows of one fit in memory: features, truth, weight and group, ordered by split.

Shapes: N rows, F features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pix2score.dataset.card import SPLITS
from pix2score.errors import DataError
from pix2score.kpi.features import Features, Matrix, Scale, learnt_scale, learnt_values
from pix2score.kpi.label_rows import Target
from pix2score.kpi.linear import Blocks, Rows
from pix2score.kpi.measure import Truth
from pix2score.kpi.rows import Source
from pix2score.metrics.formulas import Floats
from pix2score.storage.arrow import matrix

MIN_ROWS = 100
"""Fewer labelled rows are refused."""
_DRAW = "md5_number_lower('rows/' || concat_ws('/', illust_id, page))"
_ORDERED = f"""
SELECT *, dense_rank() OVER (ORDER BY "group") AS group_number,
    (md5_number_lower('half/' || "group") % 2)::INTEGER AS half,
    list_position({list(SPLITS)}, split) AS nth_split
FROM (SELECT * FROM usable ORDER BY {_DRAW}, illust_id, page LIMIT MAX_ROWS)
ORDER BY nth_split, half, position
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of train, then val, then test; within train those of the first half of the groups first."""

    target: Target
    features: Features
    scale: Scale
    rows_NF: Matrix
    """Standardised."""
    truth_N: Floats
    weight_N: Floats
    group_N: npt.NDArray[np.int64]
    splits: dict[str, slice]
    """``train``, ``val``, ``test``, and ``first`` and ``second``, the halves of train."""

    def __len__(self) -> int:
        return len(self.truth_N)

    def num(self, split: str) -> int:
        """Rows of a split."""
        return int(self.splits[split].stop - self.splits[split].start)

    @property
    def centre_and_deviation(self) -> tuple[float, float]:
        """Of a number in the train split: what it is learnt in; of a rate 0 and 1."""
        truth_N = self.truth_N[self.splits["train"]]
        return (0.0, 1.0) if self.target == "rate" else (float(truth_N.mean()), float(truth_N.std()))

    def rows(self, split: str, blocks: Blocks | None = None) -> Rows:
        """What models learn from: the features of a split, or other columns of its rows."""
        (centre, deviation), part = self.centre_and_deviation, self.splits[split]
        truth_N = (self.truth_N[part] - centre) / deviation
        return Rows(blocks or [self.rows_NF[part]], truth_N, self.weight_N[part])

    def truth(self, split: str) -> Truth:
        """What answers are measured on."""
        part = self.splits[split]
        return Truth(self.target, self.truth_N[part], self.weight_N[part], self.group_N[part])


def read_table(
    connection: duckdb.DuckDBPyConnection, source: Source, target: Target, features: Features, max_rows: int
) -> Table:
    """The rows of table ``usable``, at most ``max_rows``, with their embeddings.

    Raises ``DataError``: fewer than 100, an empty split, or a KPI that says nothing in one.
    """
    found = connection.sql(_ORDERED.replace("MAX_ROWS", str(max_rows))).to_arrow_table()
    truth_N, weight_N = (found.column(name).to_numpy().astype(np.float64) for name in ("truth", "weight"))
    splits = _slices(found)
    _check(target, truth_N, splits)
    learnt = _learnt(features, found, splits["train"])
    rows_NF = np.empty((len(truth_N), learnt.width), np.float32)
    learnt.fill(rows_NF, None, found)
    if features.embedding_dim:
        _read_embeddings(source, found, rows_NF[:, : features.embedding_dim])
    scale = learnt_scale(rows_NF[splits["train"]])
    scale.apply(rows_NF)
    group_N = found.column("group_number").to_numpy()
    return Table(target, learnt, scale, rows_NF, truth_N, weight_N, group_N, splits)


def _slices(found: pa.Table) -> dict[str, slice]:
    nth_N, half_N = found.column("nth_split").to_numpy(), found.column("half").to_numpy()
    ends = np.searchsorted(nth_N, np.arange(1, len(SPLITS) + 1), side="right").tolist()
    splits = {name: slice(a, b) for name, a, b in zip(SPLITS, [0, *ends], ends, strict=False)}
    middle = int(np.searchsorted(half_N[: ends[0]], 1))
    return {**splits, "first": slice(0, middle), "second": slice(middle, ends[0])}


def _check(target: Target, truth_N: Floats, splits: dict[str, slice]) -> None:
    if len(truth_N) < MIN_ROWS:
        raise DataError(
            f"{len(truth_N)} labels with an embedding: too few to learn from, at least {MIN_ROWS}"
        )
    sizes = ", ".join(f"{splits[name].stop - splits[name].start} {name}" for name in SPLITS)
    empty = [name for name in SPLITS if splits[name].start == splits[name].stop]
    if empty:
        raise DataError(
            f"no label is in split {empty[0]} ({sizes}): train, val and test each need some; a column split "
            "says which, or --val-fraction and --test-fraction how many"
        )
    for name in SPLITS:
        part = truth_N[splits[name]]
        if (part == part[0]).all() and (name == "train" or target == "number" or part[0] in (0, 1)):
            raise DataError(
                f"the KPI is {part[0]:g} in all {len(part)} rows of split {name}: nothing to learn"
            )


def _learnt(features: Features, found: pa.Table, train: slice) -> Features:
    """With the texts that the train split has."""
    rows = found.slice(train.start, train.stop - train.start)
    side = tuple(learnt_values(c, rows.column(c.key)) for c in features.side)
    return replace(features, side=side)


def _read_embeddings(source: Source, found: pa.Table, out_ND: Matrix) -> None:
    """Each row's embedding into its row of ``out_ND``, in one pass over all live embeddings."""
    position_N = found.column("position").to_numpy()
    order = np.argsort(position_N)
    for start, batch in _numbered(source):
        lo, hi = np.searchsorted(position_N[order], [start, start + batch.num_rows])
        rows, inside = order[lo:hi], position_N[order[lo:hi]] - start
        assert (
            batch.column(0)
            .take(pa.array(inside))
            .equals(found.column("illust_id").take(pa.array(rows)).combine_chunks())
        ), "embeddings come in the same order every time"
        out_ND[rows] = matrix(pa.chunked_array([batch.column(2)]))[inside]
        if hi == len(order):
            return


def _numbered(source: Source) -> Iterator[tuple[int, Any]]:
    start = 0
    for batch in source.blocks("embedding"):
        yield start, batch
        start += batch.num_rows
