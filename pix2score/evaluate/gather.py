"""What an evaluation gathers while its rows stream by, and what it says in the end.

Sums of all rows; of the first ``intervals.MAX_ROWS`` the answers themselves, for intervals and curves; of the
sample, the answers on altered copies and thumbnails.

Shapes: N rows, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.heads.spec import HeadSpec
from pix2score.metrics.accumulate import HeadMetrics
from pix2score.metrics.comparison import HeadComparison, compare
from pix2score.metrics.curves import Change, change, curves
from pix2score.metrics.findings import HeadDetails
from pix2score.metrics.formulas import Floats
from pix2score.metrics.intervals import MAX_ROWS
from pix2score.metrics.measures import Answers
from pix2score.metrics.verdict import HeadVerdict, head_verdict
from pix2score.storage.arrow import matrix


class Evaluation:
    """Rows in by ``add``; ``metrics``, ``details`` and ``comparison`` out, all by head."""

    def __init__(self, heads: Sequence[HeadSpec], temperatures: Mapping[str, float]) -> None:
        """``temperatures`` by head, of the first model."""
        self.heads, self._temperatures = tuple(heads), temperatures
        self._totals = {head.name: HeadMetrics(head) for head in heads}
        self._rows: list[pa.Table] = []
        self._sampled: list[pa.Table] = []
        self._num_kept = 0

    def add(self, rows: pa.Table) -> None:
        """Add rows of ``stages.AnswerRows``."""
        for name, total in self._totals.items():
            log_probs = matrix(rows.column(f"{name}_log_probs_0"))
            total.add(log_probs, rows.column(f"{name}_bin").to_numpy(), _labels(rows, name))
        if self._num_kept < MAX_ROWS:
            self._rows.append(rows.select([name for name in rows.column_names if _is_kept(name)]))
            self._num_kept += rows.num_rows
        shown = rows.filter(pc.is_valid(rows.column("thumbnail")))
        if shown.num_rows:
            self._sampled.append(shown)

    def answers(self, head: HeadSpec, model: int = 0) -> Answers:
        """Answers to the rows kept that have a label."""
        rows, labelled = self._labelled(head)
        return Answers(
            head,
            matrix(rows.column(f"{head.name}_log_probs_{model}"))[labelled].astype(np.float64),
            rows.column(f"{head.name}_bin").to_numpy()[labelled].astype(np.int64),
            _labels(rows, head.name)[labelled],
            rows.column("group").to_numpy()[labelled],
        )

    def _labelled(self, head: HeadSpec) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
        rows = pa.concat_tables(self._rows)
        return rows, rows.column(f"{head.name}_bin").to_numpy() >= 0

    def metrics(self) -> dict[str, HeadVerdict]:
        """The numbers of the first model."""
        return {head.name: self._verdict(head) for head in self.heads}

    def _verdict(self, head: HeadSpec) -> HeadVerdict:
        totals, temperature = self._totals[head.name], self._temperature(head)
        return head_verdict(self.answers(head), totals, temperature, self._ridge(head))

    def _temperature(self, head: HeadSpec) -> float:
        return float(self._temperatures.get(head.name, 1.0))

    def _ridge(self, head: HeadSpec) -> Floats | None:
        rows, labelled = self._labelled(head)
        name = f"ridge_{head.name}"
        if name not in rows.column_names:
            return None
        return np.asarray(rows.column(name).to_numpy()[labelled], dtype=np.float64)

    def details(self) -> dict[str, HeadDetails]:
        """Curves of the first model, and how far its answers move with the image."""
        return {head.name: self._details(head) for head in self.heads}

    def _details(self, head: HeadSpec) -> HeadDetails:
        answers = self.answers(head)
        drawn = curves(answers, self._temperature(head)) if len(answers.truth) else None
        return HeadDetails(drawn, self._altered(head))

    def _altered(self, head: HeadSpec) -> dict[str, Change]:
        rows = self.sampled()
        if rows is None:
            return {}
        prefix, found = f"{head.name}_altered_", {}
        for column in (name for name in rows.column_names if name.startswith(prefix)):
            both = rows.filter(pc.is_valid(rows.column(column)))
            if both.num_rows:
                before = np.exp(matrix(both.column(f"{head.name}_log_probs_0")))
                found[column.removeprefix(prefix)] = change(head, before, matrix(both.column(column)))
        return found

    def comparison(self) -> dict[str, HeadComparison]:
        """The first model against the second."""
        return {head.name: compare(self.answers(head, 0), self.answers(head, 1)) for head in self.heads}

    def sampled(self) -> pa.Table | None:
        """The rows that have a thumbnail."""
        return pa.concat_tables(self._sampled) if self._sampled else None


def _is_kept(column: str) -> bool:
    return "_altered_" not in column and not column.endswith(("thumbnail", "_saliency"))


def _labels(rows: pa.Table, head: str) -> Floats:
    return np.asarray(rows.column(f"{head}_label").to_numpy(), dtype=np.float64)
