"""What an evaluation gathers while its rows stream by, and what it says in the end.

Sums of all rows; of the first ``intervals.MAX_ROWS`` the answers themselves, for intervals and curves; of the
sample, the answers on altered copies and thumbnails.

Shapes: N rows, K bins.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.heads.spec import Calibration, HeadSpec, present
from pix2score.metrics.comparison import HeadComparison, compare
from pix2score.metrics.findings import Adversarial, HeadDetails
from pix2score.metrics.formulas import Floats
from pix2score.metrics.intervals import MAX_BYTES, MAX_ROWS
from pix2score.metrics.kinds import accumulator, numbers_of
from pix2score.metrics.protocol import Answers, Change
from pix2score.metrics.verdict import HeadVerdict, head_verdict
from pix2score.model.folder import ModelCard
from pix2score.storage.arrow import matrix


class Evaluation:
    """Rows in by ``add``; ``metrics``, ``details`` and ``comparison`` out, all by head."""

    def __init__(self, card: ModelCard, heads: Sequence[HeadSpec], max_bytes: int = MAX_BYTES) -> None:
        """``card``: of the first model; ``heads``: those of its heads that all models have.

        ``max_bytes``: of rows kept, about.
        """
        self.heads, self._card = tuple(heads), card
        self._totals = {head.name: accumulator(head) for head in heads}
        self._rows: list[pa.Table] = []
        self._sampled: list[pa.Table] = []
        self._num_kept, self._kept_bytes, self._max_bytes = 0, 0, max_bytes

    def add(self, rows: pa.Table) -> None:
        """Add rows of ``stages.AnswerRows``."""
        for head in self.heads:
            outputs = matrix(rows.column(f"{head.name}_outputs_0"))
            self._totals[head.name].add(outputs, _targets(rows, head), _labels(rows, head))
        if self._num_kept < MAX_ROWS and self._kept_bytes < self._max_bytes:
            self._rows.append(rows.select([name for name in rows.column_names if is_kept(name)]))
            self._num_kept += rows.num_rows
            self._kept_bytes += self._rows[-1].nbytes
        shown = rows.filter(pc.is_valid(rows.column("thumbnail")))
        if shown.num_rows:
            self._sampled.append(shown)

    def answers(self, head: HeadSpec, model: int = 0) -> Answers:
        """Answers to the rows kept that have a label."""
        calibration = {} if model else self._card.calibration(head.name)
        return answers_in(pa.concat_tables(self._rows), head, model, calibration)

    def metrics(self) -> dict[str, HeadVerdict]:
        """The numbers of the first model."""
        return {head.name: self._verdict(head) for head in self.heads}

    def _verdict(self, head: HeadSpec) -> HeadVerdict:
        calibration = self._card.calibration(head.name)
        return head_verdict(self.answers(head), self._totals[head.name], calibration, self._ridge(head))

    def _ridge(self, head: HeadSpec) -> Floats | None:
        rows = pa.concat_tables(self._rows)
        name = f"ridge_{head.name}"
        if name not in rows.column_names:
            return None
        guess = matrix(rows.column(name))[present(_targets(rows, head))].astype(np.float64)
        return guess[:, 0] if guess.shape[1] == 1 else guess

    def details(self) -> dict[str, HeadDetails]:
        """Curves of the first model, and how far its answers move with the image."""
        return {head.name: self._details(head) for head in self.heads}

    def _details(self, head: HeadSpec) -> HeadDetails:
        answers = self.answers(head)
        calibration = self._card.calibration(head.name)
        drawn = numbers_of(head).curves(answers, calibration) if len(answers.truth) else None
        return HeadDetails(drawn, self._altered(head), self._adversarial(head))

    def _adversarial(self, head: HeadSpec) -> Adversarial | None:
        rows, column = self.sampled(), f"{head.name}_adversarial"
        if (
            rows is None
            or column not in rows.column_names
            or not len(tried := rows.column(column).drop_null())
        ):
            return None
        return {"images": len(tried), "changed": pc.mean(tried.cast("int8")).as_py()}

    def _altered(self, head: HeadSpec) -> dict[str, Change]:
        rows = self.sampled()
        if rows is None:
            return {}
        prefix, found = f"{head.name}_altered_", {}
        for column in (name for name in rows.column_names if name.startswith(prefix)):
            both = rows.filter(pc.is_valid(rows.column(column)))
            if both.num_rows:
                before, after = (matrix(both.column(name)) for name in (f"{head.name}_outputs_0", column))
                found[column.removeprefix(prefix)] = numbers_of(head).change(head, before, after)
        return found

    def comparison(self) -> dict[str, HeadComparison]:
        """The first model against the second."""
        return {head.name: compare(self.answers(head, 0), self.answers(head, 1)) for head in self.heads}

    def sampled(self) -> pa.Table | None:
        """The rows that have a thumbnail."""
        return pa.concat_tables(self._sampled) if self._sampled else None


def answers_in(rows: pa.Table, head: HeadSpec, model: int, calibration: Calibration) -> Answers:
    """Answers of the rows of ``stages.AnswerRows`` that have a label."""
    targets = _targets(rows, head)
    labelled = present(targets)
    return Answers(
        head,
        matrix(rows.column(f"{head.name}_outputs_{model}"))[labelled].astype(np.float64),
        targets[labelled],
        _labels(rows, head)[labelled],
        rows.column("group").to_numpy()[labelled],
        calibration,
    )


def is_kept(column: str) -> bool:
    """Whether a column of ``stages.AnswerRows`` holds answers, not what a sample is shown with."""
    return "_altered_" not in column and not column.endswith(("thumbnail", "_saliency", "_adversarial"))


def _targets(rows: pa.Table, head: HeadSpec) -> npt.NDArray[Any]:
    return head.targets(rows.column(head.target_field().name))


def _labels(rows: pa.Table, head: HeadSpec) -> Floats:
    return head.label_values(rows.column(f"{head.name}_label"))
