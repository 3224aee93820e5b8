"""How much each member counts: greedy selection with replacement (Caruana et al. 2004), for each head.

Shapes: N images, A outputs of a head, M members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pix2score.heads.spec import Floats, HeadSpec, present
from pix2score.metrics.kinds import accumulator, numbers_of
from pix2score.metrics.protocol import Accumulator
from pix2score.model.pooling import pooled

ROUNDS = 5
"""Times the number of members: so many are drawn in all, each perhaps several times."""
MOST_ROWS = 20_000
"""Validation images that choose; more would not change a share of a tenth."""
ALIKE = 0.95
"""Correlation of errors from which on two members are told to say the same."""


@dataclass(frozen=True, slots=True)
class HeadAnswers:
    """What all members say of one head's validation images, missing labels included."""

    head: HeadSpec
    outputs: Sequence[Floats]
    """Of each member [N, A], such as need no calibration (``HeadSpec.measured``)."""
    targets: npt.NDArray[Any]
    labels: npt.NDArray[np.float64]

    def metrics(self, shares: Sequence[float], rows: slice = slice(None)) -> Accumulator:
        """Of their mean by ``shares``."""
        found = accumulator(self.head)
        found.add(self._pooled(shares, rows), self.targets[rows], self.labels[rows])
        return found

    def _pooled(self, shares: Sequence[float], rows: slice) -> Floats:
        parts = [torch.from_numpy(outputs[rows].astype(np.float32)) for outputs in self.outputs]
        return np.asarray(pooled(self.head, parts, shares).numpy())

    def alike(self) -> list[tuple[int, int, float]]:
        """Pairs of members whose errors go together, and their correlation."""
        labelled = present(self.targets)
        errors = [
            numbers_of(self.head).misses(
                self.head, outputs[labelled].astype(np.float64), self.targets[labelled]
            )
            for outputs in self.outputs
        ]
        found = []
        for i, first in enumerate(errors):
            for j in range(i + 1, len(errors)):
                if len(first) > 2 and first.std() > 0 and errors[j].std() > 0:
                    correlation = float(np.corrcoef(first, errors[j])[0, 1])
                    found += [(i, j, correlation)] if correlation > ALIKE else []
        return found


def chosen_shares(answers: HeadAnswers) -> list[float]:
    """Of each member, [M], at least 0 and 1 together: those of the mean that validates best.

    Equal ones where no image has a label.
    """
    number, rows = len(answers.outputs), slice(0, MOST_ROWS)
    if not present(answers.targets[rows]).any():
        return [1 / number] * number
    counts, best = [0] * number, (math.inf, [1 / number] * number)
    for _ in range(ROUNDS * number):
        tried = [_shares([c + (i == j) for j, c in enumerate(counts)]) for i in range(number)]
        losses = [_loss(answers.metrics(shares, rows)) for shares in tried]
        taken = int(np.argmin(losses))
        counts[taken] += 1
        best = min(best, (losses[taken], tried[taken]))
    return best[1]


def _shares(counts: Sequence[int]) -> list[float]:
    return [count / sum(counts) for count in counts]


def _loss(metrics: Accumulator) -> float:
    found = metrics.relative_loss()
    return found if math.isfinite(found) else math.inf
