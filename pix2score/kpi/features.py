"""Which columns a KPI is predicted from, and how they become one matrix: the same at fitting and at applying.

Shapes: N rows, F features: the embedding, the heads' numbers, then for each side column of numbers its value
and whether it is missing, for each one of texts a column for every value that the train split has often.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt

from pix2score.errors import DataError
from pix2score.kpi.labels import SideColumn
from pix2score.metrics.formulas import Floats
from pix2score.snapshots.tables import Layout
from pix2score.storage.arrow import matrix

Matrix = npt.NDArray[np.float32]
MAX_VALUES = 50
"""Of a side column of texts that have a feature of their own, the most frequent of the train split."""
MIN_ROWS = 10
"""Of the train split that have such a value."""
_BLOCK_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Features:
    """The columns in order."""

    embedding_dim: int
    """0 without the embedding."""
    scores: tuple[str, ...]
    """Columns of SCORES."""
    side: tuple[SideColumn, ...]

    @property
    def plain(self) -> tuple[str, ...]:
        """Columns that are not the embedding."""
        return (*self.scores, *(column.key for column in self.side))

    @property
    def width(self) -> int:
        """F."""
        side = sum(len(column.values) if column.is_text else 2 for column in self.side)
        return self.embedding_dim + len(self.scores) + side

    def fill(self, out_NF: Matrix, embedding: pa.Array | None, plain: pa.Table | None) -> None:
        """Write the features of N rows as they are, NaN where a number is missing."""
        at = self.embedding_dim
        if embedding is not None:
            out_NF[:, :at] = matrix(pa.chunked_array([embedding]))
        for name in self.scores:
            out_NF[:, at] = _numbers(plain, name)
            at += 1
        for column in self.side:
            if column.is_text:
                for value in column.values:
                    is_it = pc.fill_null(pc.equal(_named(plain, column.key), value), False)
                    out_NF[:, at] = is_it.to_numpy()
                    at += 1
            else:
                number_N = _numbers(plain, column.key)
                out_NF[:, at], out_NF[:, at + 1] = number_N, np.isnan(number_N)
                at += 2

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def features_from_dict(plain: dict[str, Any]) -> Features:
    """What ``to_dict`` gave."""
    side = tuple(SideColumn(c["name"], c["is_text"], tuple(c["values"])) for c in plain["side"])
    return Features(plain["embedding_dim"], tuple(plain["scores"]), side)


def score_columns(layout: Layout, scores: str) -> tuple[str, ...]:
    """The numbers that the heads answer with. Raises ``DataError`` if there is none."""
    fields = [field for head in layout.heads for field in head.fields()]
    found = tuple(field.name for field in fields if pt.is_floating(field.type))
    if not found:
        names = ", ".join(field.name for field in fields)
        raise DataError(f"--features scores: no head of {scores} answers with a number; its columns: {names}")
    return found


def learnt_values(column: SideColumn, texts: pa.ChunkedArray) -> SideColumn:
    """``column`` with the values of the train split that have a feature of their own."""
    if not column.is_text:
        return column
    counts = {c["values"]: c["counts"] for c in texts.drop_null().value_counts().to_pylist()}
    often = sorted((v for v in counts if counts[v] >= MIN_ROWS), key=lambda v: (-counts[v], v))
    return SideColumn(column.name, is_text=True, values=tuple(often[:MAX_VALUES]))


@dataclass(frozen=True, slots=True)
class Scale:
    """Mean and deviation [F] of the train split; a column that is constant there has deviation 1."""

    mean: Floats
    deviation: Floats

    def apply(self, rows_NF: Matrix) -> None:
        """Standardise rows in place; what is missing is the mean."""
        mean, deviation = self.mean.astype(np.float32), self.deviation.astype(np.float32)
        for rows in _blocks(rows_NF):
            np.subtract(rows, mean, out=rows)
            np.divide(rows, deviation, out=rows)
            rows[np.isnan(rows)] = 0


def learnt_scale(train_NF: Matrix) -> Scale:
    """Of the rows of the train split, where they have a value."""
    count, total, squares = (np.zeros(train_NF.shape[1]) for _ in range(3))
    for rows in _blocks(train_NF):
        count += (~np.isnan(rows)).sum(0)
        total += np.nansum(rows, axis=0, dtype=np.float64)
    mean = total / np.maximum(count, 1)
    for rows in _blocks(train_NF):
        squares += np.nansum((rows - mean) ** 2, axis=0)
    deviation = np.sqrt(squares / np.maximum(count, 1))
    return Scale(mean, np.where(deviation > 1e-6 * np.maximum(np.abs(mean), 1e-6), deviation, 1.0))


def _blocks(rows_NF: Matrix) -> Iterator[Matrix]:
    """Views of some rows at a time: what is made of them is small."""
    return (rows_NF[start : start + _BLOCK_ROWS] for start in range(0, len(rows_NF), _BLOCK_ROWS))


def _named(plain: pa.Table | None, name: str) -> pa.ChunkedArray:
    assert plain is not None, "columns that are not the embedding come in a table"
    return plain.column(name)


def _numbers(plain: pa.Table | None, name: str) -> Floats:
    return np.asarray(pc.cast(_named(plain, name), pa.float64()).to_numpy(), dtype=np.float64)
