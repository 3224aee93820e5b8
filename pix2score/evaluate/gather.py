"""What an evaluation gathers while its rows stream by, and what it says in the end.

Sums of all rows (``metrics``); of the first ``quality.MAX_ROWS`` the answers themselves, for intervals and
curves; of the sample, the answers on altered copies and thumbnails.

Shapes: N rows, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.heads.spec import HeadSpec
from pix2score.metrics import measures as quality
from pix2score.metrics import verdict
from pix2score.metrics.accumulate import HeadMetrics
from pix2score.metrics.measures import Answers
from pix2score.storage.arrow import matrix

NUM_LISTED = 6


class Evaluation:
    """Rows in by ``add``; ``metrics``, ``details`` and ``comparison`` out."""

    def __init__(
        self,
        heads: Sequence[HeadSpec],
        temperatures: Sequence[Mapping[str, float]],
        *,
        with_ridge: bool = False,
    ) -> None:
        """``temperatures`` of each model, the candidate first."""
        self.heads, self._temperatures, self._with_ridge = tuple(heads), temperatures, with_ridge
        self._sums = [HeadMetrics(head) for head in heads]
        self._rows: list[pa.Table] = []
        self._sampled: list[pa.Table] = []
        self._num_kept = 0

    def add(self, rows: pa.Table) -> None:
        """Take what the last stage gave."""
        for total in self._sums:
            name = total.head.name
            total.add(
                matrix(rows.column(f"{name}_log_probs_0")),
                rows.column(f"{name}_bin").to_numpy(),
                _labels(rows, name),
            )
        if self._num_kept < quality.MAX_ROWS:
            narrow = [
                name
                for name in rows.column_names
                if "_altered_" not in name and not name.endswith(("thumbnail", "_saliency"))
            ]
            self._rows.append(rows.select(narrow))
            self._num_kept += rows.num_rows
        shown = rows.filter(pc.is_valid(rows.column("thumbnail")))
        if shown.num_rows:
            self._sampled.append(shown)

    def answers(self, head: HeadSpec, model: int = 0) -> Answers:
        """Of the rows kept that have a label."""
        rows, labelled = self._labelled(head)
        log_probs = matrix(rows.column(f"{head.name}_log_probs_{model}"))[labelled].astype(np.float64)
        truth = rows.column(f"{head.name}_bin").to_numpy()[labelled].astype(np.int64)
        return Answers(
            head,
            log_probs,
            truth,
            _labels(rows, head.name)[labelled],
            rows.column("group").to_numpy()[labelled],
        )

    def _labelled(self, head: HeadSpec) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
        rows = pa.concat_tables(self._rows)
        return rows, rows.column(f"{head.name}_bin").to_numpy() >= 0

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Head -> its numbers: over all rows those of ``HeadMetrics``, and from the rows kept what needs the
        answers themselves."""
        return {total.head.name: self._head_metrics(total) for total in self._sums}

    def _head_metrics(self, total: HeadMetrics) -> dict[str, Any]:
        found = verdict.head_verdict(
            self.answers(total.head), self._temperature(total.head), self._ridge(total.head)
        )
        return found | total.result()

    def _temperature(self, head: HeadSpec) -> float:
        return float(self._temperatures[0].get(head.name, 1.0))

    def _ridge(self, head: HeadSpec) -> npt.NDArray[np.float64] | None:
        rows, labelled = self._labelled(head)
        name = f"ridge_{head.name}"
        return (
            rows.column(name).to_numpy()[labelled].astype(np.float64) if name in rows.column_names else None
        )

    def details(self) -> dict[str, dict[str, Any]]:
        """Head -> what only a report needs: curves, confusion, and under ``altered`` how far answers move
        with the image."""
        return {head.name: self._curves(head) | {"altered": self._altered(head)} for head in self.heads}

    def _curves(self, head: HeadSpec) -> dict[str, Any]:
        answers = self.answers(head)
        return verdict.curves(answers, self._temperature(head)) if len(answers.truth) else {}

    def _altered(self, head: HeadSpec) -> dict[str, Any]:
        if not self._sampled:
            return {}
        rows = pa.concat_tables(self._sampled)
        prefix, found = f"{head.name}_altered_", {}
        for column in (name for name in rows.column_names if name.startswith(prefix)):
            both = rows.filter(pc.is_valid(rows.column(column)))
            if both.num_rows:
                before = np.exp(matrix(both.column(f"{head.name}_log_probs_0")))
                found[column.removeprefix(prefix)] = verdict.change(head, before, matrix(both.column(column)))
        return found

    def comparison(self) -> dict[str, dict[str, Any]]:
        """Head -> the first model against the second."""
        return {
            head.name: verdict.compare(self.answers(head, 0), self.answers(head, 1)) for head in self.heads
        }

    def sampled(self) -> pa.Table | None:
        """The rows that have a thumbnail."""
        return pa.concat_tables(self._sampled) if self._sampled else None


def _labels(rows: pa.Table, head: str) -> npt.NDArray[np.float64]:
    return np.asarray(rows.column(f"{head}_label").to_numpy(), dtype=np.float64)
