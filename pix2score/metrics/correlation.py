"""How the answers of heads go with one another, and how their labels do. Shapes: N images, H heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pix2score.heads.spec import HeadSpec
from pix2score.metrics.formulas import Floats, rank_correlation

MAX_ROWS = 50_000
"""Images that are ranked: the standard error is then 0.004."""
MIN_ROWS = 10
"""Images that have both numbers, below which there is no correlation."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rank correlation of each two numbers, [H][H]; None where one is constant, or few images have both."""

    spearman: list[list[float | None]]
    num_rows: list[list[int]]
    """Images that have both."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        return {"spearman": self.spearman, "num_rows": self.num_rows}


@dataclass(frozen=True, kw_only=True, slots=True)
class Correlations:
    """Of heads that have a score, two at least."""

    heads: tuple[str, ...]
    answers: Matrix
    """Of ``<h>_score``."""
    labels: Matrix | None = None
    """None where there are none."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        labels = {"labels": self.labels.to_dict()} if self.labels else {}
        return {"heads": list(self.heads), "answers": self.answers.to_dict(), **labels}


def has_score(head: HeadSpec) -> bool:
    """Whether rows have a ``<h>_score``: tags and classes have no order."""
    return f"{head.name}_score" in [field.name for field in head.fields()]


def correlations(answers: Mapping[str, Floats], labels: Mapping[str, Floats]) -> Correlations | None:
    """Of numbers by head, [N] each, NaN where missing; a head of ``answers`` may lack labels.

    None below two heads.
    """
    if len(answers) < 2:
        return None
    nothing = np.full(len(next(iter(answers.values()))), np.nan)
    known = [labels.get(name, nothing) for name in answers]
    return Correlations(
        heads=tuple(answers),
        answers=spearman_matrix(list(answers.values())),
        labels=spearman_matrix(known) if sum(name in answers for name in labels) > 1 else None,
    )


def spearman_matrix(columns: Sequence[Floats]) -> Matrix:
    """Of each two columns over the rows, the first ``MAX_ROWS``, where both are known."""
    columns = [column[:MAX_ROWS] for column in columns]
    size = len(columns)
    found: list[list[float | None]] = [[None] * size for _ in range(size)]
    rows = [[0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i, size):
            both = ~np.isnan(columns[i]) & ~np.isnan(columns[j])
            rows[i][j] = rows[j][i] = int(both.sum())
            if both.sum() >= MIN_ROWS:
                found[i][j] = found[j][i] = rank_correlation(columns[i][both], columns[j][both])
    return Matrix(found, rows)
