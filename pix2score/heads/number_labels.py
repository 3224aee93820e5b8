"""Labels that are numbers: read exactly where they are whole, dropped where they are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as pt

from pix2score.heads.spec import HeadSpec, LabelColumn

NOT_A_NUMBER = "not_a_number"


def can_hold_numbers(column: pa.DataType) -> bool:
    """Numbers, or text that may hold them: what does not is dropped row by row."""
    is_number = pt.is_integer(column) or pt.is_floating(column) or pt.is_decimal(column)
    is_text = pt.is_string(column) or pt.is_large_string(column) or pt.is_string_view(column)
    return bool(is_number or pt.is_boolean(column) or is_text or pt.is_null(column))


def number_type(column: LabelColumn) -> pa.DataType:
    """int64 or float64: integers stay exact, everything else becomes a float."""
    exact = pt.is_integer(column.type) or pt.is_boolean(column.type)
    return pa.int64() if exact else pa.float64()


def number_sql(column: LabelColumn) -> str:
    """SQL: the number in a column; null where there is none."""
    return f"TRY_CAST({column.sql} AS {'BIGINT' if number_type(column).equals(pa.int64()) else 'DOUBLE'})"


def text_of(column: LabelColumn) -> str:
    """SQL: what stands in a column, as text."""
    return f"CAST({column.sql} AS VARCHAR)"


def bounded(number: str, low: float, high: float) -> str:
    """SQL: whether ``number`` is finite and within the bounds, both included; infinite ones do not bind."""
    legal = [f"isfinite(CAST({number} AS DOUBLE))"]
    if low > float("-inf"):
        legal.append(f"{number} >= {low!r}")
    if high < float("inf"):
        legal.append(f"{number} <= {high!r}")
    return " AND ".join(legal)


def why_dropped(number: str, low: float, other: str) -> str:
    """SQL: why ``number`` is no label: no number, not finite, below ``low``, or ``other``."""
    least = low if low > float("-inf") else "-1e999"
    return (
        f"CASE WHEN {number} IS NULL THEN '{NOT_A_NUMBER}' WHEN NOT isfinite(CAST({number} AS DOUBLE)) THEN "
        f"'not_finite' WHEN {number} < {least} THEN 'below_min_value' ELSE '{other}' END"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NumberLabels(HeadSpec):
    """A head whose label is one column of numbers, whatever it makes of them."""

    @classmethod
    def accepts(cls, column: pa.DataType) -> bool:
        """Numbers, or text that may hold them."""
        return can_hold_numbers(column)

    def label_type(self, columns: Sequence[LabelColumn]) -> pa.DataType:
        """int64 or float64."""
        return number_type(columns[0])

    def given_sql(self, columns: Sequence[LabelColumn]) -> str:
        """SQL: what the column holds."""
        return text_of(columns[0])

    def label_values(self, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
        """[N]."""
        return np.asarray(column.cast(pa.float64(), safe=False).to_numpy())
