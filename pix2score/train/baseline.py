"""The baseline of a training: a ridge regression that learns beside the network.

From the first images that the network sees; it is judged on the same validation rows.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController

from pix2score.heads.spec import HeadSpec, present
from pix2score.metrics.formulas import Floats, rank_correlation
from pix2score.metrics.ridge import PENALTIES, Ridge, answers, features
from pix2score.train.step.batch import Batch
from pix2score.train.step.collectives import gather

MAX_ROWS = 20_000
"""Images per worker that the ridge sees: some 3 ms of one core each, and more would not change it."""


class RidgeBaseline:
    """Every worker adds its own rows; sums and scores meet over workers.

    Rows are added on one thread, whatever numpy's BLAS would take: its own go on spinning for a while after
    each product, on the cores of the network's next step (ResNet18 at 64 px on two cores: steps of 0.38 s
    instead of 0.25).
    """

    def __init__(self, heads: Sequence[HeadSpec]) -> None:
        self._heads = heads
        self._ridge, self._validation = Ridge(heads), Ridge(heads)
        self._threads = ThreadpoolController()
        self._num_seen, self._num_judged = 0, 0
        self._weights: dict[str, Floats] = {}
        self._judged: dict[str, list[Floats]] = {head.name: [] for head in heads}

    def add(self, batch: Batch) -> None:
        """Learn from rows of the train split."""
        if self._num_seen < MAX_ROWS:
            self._num_seen += len(batch.pixels_BSSC)
            with self._threads.limit(limits=1, user_api="blas"):
                self._ridge.add(*_rows(batch))

    def solve(self) -> None:
        """Fit to the rows of all workers, which call it together."""
        self._ridge = _merged(self._ridge)
        self._weights = self._ridge.solve()

    def judge(self, batch: Batch) -> None:
        """Answer rows of the validation split, after ``solve``."""
        if self._num_judged >= MAX_ROWS or not self._weights:
            return
        found, targets = _rows(batch)
        self._num_judged += len(found)
        self._validation.add(found, targets)
        for name, weights in self._weights.items():
            labelled = present(targets[name])
            scores = answers(weights, found[labelled])
            self._judged[name].append(
                np.concatenate([scores, batch.labels[name].numpy()[labelled, None]], axis=1)
            )

    def correlations(self) -> dict[str, float | None]:
        """Head -> Spearman on the validation rows of all workers, None where there is none."""
        everyone, validation = gather(self._judged), _merged(self._validation)
        found: dict[str, float | None] = {}
        for head in self._heads:
            parts = [part for judged in everyone for part in judged[head.name] if len(part)]
            if not parts:
                found[head.name] = None
                continue
            rows = np.concatenate(parts)
            penalty = self._ridge.sums[head.name].best_penalty(validation.sums.get(head.name))
            found[head.name] = rank_correlation(rows[:, PENALTIES.index(penalty)], rows[:, -1])
        return found


def _rows(batch: Batch) -> tuple[Floats, dict[str, npt.NDArray[Any]]]:
    return features(batch.pixels_BSSC.numpy()), {name: t.numpy() for name, t in batch.targets.items()}


def _merged(mine: Ridge) -> Ridge:
    first, *others = gather(mine)
    return functools.reduce(Ridge.merge, others, first)
