"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

GAP = "  "


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """One line per row: the first column to the left, the others to the right, each as wide as it needs.

    A row may end early. Widths are numbers of characters.
    """
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return "\n".join(GAP.join(_cells(row, widths)).rstrip() for row in rows)


def _cells(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first = [cell.ljust(widths[0]) for cell in row[:1]]
    return first + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)]
