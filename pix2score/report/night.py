"""What one pass over a night's scores table gathers.

Counts per bin and error code, the most extreme rows, a random sample.

Its memory does not grow with the number of rows.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.heads.spec import HeadSpec
from pix2score.metrics.correlation import Correlations, correlations, has_score

NUM_RANKED = 20_000
"""Rows whose scores are compared between heads: the standard error is then 0.007."""
NUM_EXTREME, NUM_RANDOM, NUM_FAILED = 6, 48, 3


@dataclass
class NightStats:
    """What one pass over a snapshot's scores table gathers."""

    heads: Sequence[HeadSpec]
    run: str
    bins: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """Head -> images per step of its histogram: per predicted bin, of an ordered head."""
    fresh: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """The same of the images that this snapshot's run scored: in a catalog that grows slowly, they alone show
    a change."""
    failed: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    pending: int = 0
    """Rows not scored yet."""
    extremes: dict[tuple[str, str], list[dict[str, Any]]] = field(default_factory=dict)
    failures: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    drawn: list[dict[str, Any]] = field(default_factory=list)
    """A random sample."""
    scores: npt.NDArray[np.float64] | None = None
    """A larger one: a random number, and ``<h>_score`` of each head that has one, [n, 1 + H]."""

    def add(self, batch: pa.RecordBatch) -> None:
        """Count a batch, and keep what of it is among the most extreme, or drawn."""
        rows = pa.Table.from_batches([batch])
        ok = rows.filter(pc.equal(rows.column("status"), "ok"))
        for head in self.heads:
            of_run = ok.filter(pc.equal(ok.column("run"), self.run))
            self.bins[head.name] = self.bins.get(head.name, 0) + head.histogram(ok)
            self.fresh[head.name] = self.fresh.get(head.name, 0) + head.histogram(of_run)
            by = head.order_column
            if by is None:
                continue
            for end, order in (("highest", "descending"), ("lowest", "ascending")):
                best = ok.sort_by([(by, order)]).slice(0, NUM_EXTREME).to_pylist()
                kept = [*self.extremes.get((head.name, end), []), *best]
                kept.sort(key=lambda row: row[by], reverse=end == "highest")  # noqa: B023
                self.extremes[head.name, end] = kept[:NUM_EXTREME]
        self._add_failures(rows.filter(pc.equal(rows.column("status"), "failed")))
        self.pending += pc.sum(pc.equal(rows.column("status"), "pending")).as_py() or 0
        self._draw(ok)
        self._draw_scores(ok)
        self.rows += rows.num_rows

    def _add_failures(self, failed: pa.Table) -> None:
        self.failed.update(failed.column("error_code").to_pylist())
        for code in set(failed.column("error_code").to_pylist()):
            kept = self.failures.setdefault(code, [])
            kept += (
                failed.filter(pc.equal(failed.column("error_code"), code))
                .slice(0, NUM_FAILED - len(kept))
                .to_pylist()
            )

    @property
    def scored(self) -> list[HeadSpec]:
        """The heads that have a score."""
        return [head for head in self.heads if has_score(head)]

    def correlations(self) -> Correlations | None:
        """How scores go with one another; None below two heads that have one, or without rows."""
        if self.scores is None:
            return None
        names = [head.name for head in self.scored]
        return correlations(dict(zip(names, self.scores[:, 1:].T, strict=True)), {})

    def _draw_scores(self, ok: pa.Table) -> None:
        """As ``_draw``, of scores alone."""
        if not ok.num_rows or not self.scored:
            return
        numbers = np.random.default_rng(self.rows).random(ok.num_rows)
        columns = [ok.column(f"{h.name}_score").cast(pa.float64()).to_numpy() for h in self.scored]
        rows = np.stack([numbers, *columns], axis=1)
        rows = rows if self.scores is None else np.concatenate([self.scores, rows])
        self.scores = rows[np.argsort(rows[:, 0], kind="stable")[:NUM_RANKED]]

    def _draw(self, ok: pa.Table) -> None:
        """Give each row a random number and keep the smallest of all.

        An even sample without knowing the number of rows.
        """
        numbers = random.Random(self.rows).choices(range(2**62), k=ok.num_rows)
        order = np.argsort(numbers)[:NUM_RANDOM].tolist() if ok.num_rows else []
        self.drawn += [
            {**row, "_draw": numbers[i]} for i, row in zip(order, ok.take(order).to_pylist(), strict=True)
        ]
        self.drawn = sorted(self.drawn, key=lambda row: row["_draw"])[:NUM_RANDOM]
