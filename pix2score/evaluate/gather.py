"""What an evaluation gathers while its rows stream by, and what it says in the end.

Sums of all rows; of the first ``intervals.MAX_ROWS`` the answers themselves, for intervals and curves; of the
sample, the answers on altered copies and thumbnails.

Shapes: N rows, K bins.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pix2score.evaluate.strata import Strata
from pix2score.heads.spec import Calibration, HeadSpec, present
from pix2score.metrics import correlation
from pix2score.metrics.comparison import HeadComparison, compare
from pix2score.metrics.correlation import Correlations, correlations, has_score
from pix2score.metrics.findings import Adversarial, HeadDetails
from pix2score.metrics.formulas import Floats
from pix2score.metrics.intervals import MAX_BYTES, MAX_ROWS, MIN_LABELLED
from pix2score.metrics.kinds import accumulator, numbers_of
from pix2score.metrics.parts import MIN_PART, ByColumn, Part
from pix2score.metrics.protocol import Answers, Change
from pix2score.metrics.verdict import HeadVerdict, head_verdict
from pix2score.model.card import ModelCard
from pix2score.storage.arrow import matrix


class Evaluation:
    """Rows in by ``add``; ``metrics``, ``details`` and ``comparison`` out, all by head."""

    def __init__(
        self,
        card: ModelCard,
        heads: Sequence[HeadSpec],
        max_bytes: int = MAX_BYTES,
        strata: Sequence[Strata] = (),
    ) -> None:
        """``card``: of the first model; ``heads``: those of its heads that all models have.

        ``max_bytes``: of rows kept, about. ``strata``: what ``by`` tells numbers apart by.
        """
        self.heads, self._card = tuple(heads), card
        self._totals = _Totals(heads)
        self._strata = {f"by:{i}": found for i, found in enumerate(strata)}  # column of rows kept: its parts
        self._of_parts: dict[tuple[str, int], _Totals] = defaultdict(lambda: _Totals(heads))
        self._rows: list[pa.Table] = []
        self._sampled: list[pa.Table] = []
        self._num_kept, self._kept_bytes, self._max_bytes = 0, 0, max_bytes

    def add(self, rows: pa.Table) -> None:
        """Add rows of ``stages.AnswerRows``."""
        self._totals.add(rows)
        for column, strata in self._strata.items():
            part = strata.of(rows)
            rows = rows.append_column(column, pa.array(part))
            for i in np.unique(part).tolist():
                self._of_parts[column, i].add(rows.filter(pa.array(part == i)))
        if self._num_kept < MAX_ROWS and self._kept_bytes < self._max_bytes:
            self._rows.append(rows.select([name for name in rows.column_names if is_kept(name)]))
            self._num_kept += rows.num_rows
            self._kept_bytes += self._rows[-1].nbytes
        shown = rows.filter(pc.is_valid(rows.column("thumbnail")))
        if shown.num_rows:
            self._sampled.append(shown)

    def answers(self, head: HeadSpec, model: int = 0, rows: pa.Table | None = None) -> Answers:
        """Answers to the rows kept, or to ``rows`` of them, that have a label."""
        calibration = {} if model else self._card.calibration(head.name)
        return answers_in(self.kept() if rows is None else rows, head, model, calibration)

    def metrics(self) -> dict[str, HeadVerdict]:
        """The numbers of the first model."""
        rows = self.kept()
        return {head.name: self._verdict(head, rows, self._totals, MIN_LABELLED) for head in self.heads}

    def by(self) -> tuple[ByColumn, ...]:
        """The numbers of the first model for each part of each of ``strata``."""
        return tuple(self._parts(column, strata) for column, strata in self._strata.items())

    def _parts(self, column: str, strata: Strata) -> ByColumn:
        rows, parts = self.kept(), []
        for i, (value, num_rows) in enumerate(zip(strata.parts.names, strata.num_rows, strict=True)):
            chosen = rows.filter(pc.equal(rows.column(column), i))
            metrics = {head.name: self._part(head, chosen, self._of_parts[column, i]) for head in self.heads}
            parts.append(Part(value=value, num_rows=num_rows, metrics=metrics))
        return ByColumn(column=strata.column, note=strata.parts.note, parts=tuple(parts))

    def _part(self, head: HeadSpec, rows: pa.Table, totals: _Totals) -> HeadVerdict:
        verdict = self._verdict(head, rows, totals, MIN_PART)
        if not verdict.num_labelled:
            return verdict
        found = numbers_of(head).part_notes(self.answers(head, rows=rows))
        return replace(verdict, notes={**verdict.notes, **found})

    def _verdict(self, head: HeadSpec, rows: pa.Table, totals: _Totals, min_labelled: int) -> HeadVerdict:
        calibration = self._card.calibration(head.name)
        return head_verdict(
            self.answers(head, rows=rows),
            totals.of[head.name],
            calibration,
            ridge_in(rows, head),
            min_labelled,
        )

    def kept(self) -> pa.Table:
        """The rows kept: the first ones, which are a random sample of more."""
        return pa.concat_tables(self._rows)

    def correlations(self) -> Correlations | None:
        """How scores, and labels, go with one another on the rows kept."""
        rows = self.kept().slice(0, correlation.MAX_ROWS)
        heads = [head for head in self.heads if has_score(head)]
        said = {h.name: numbers_of(h).score(h, matrix(rows.column(f"{h.name}_outputs_0"))) for h in heads}
        true = {h.name: numbers_of(h).label_number(h, _labels(rows, h)) for h in heads}
        return correlations(said, {name: label for name, label in true.items() if label is not None})

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


class _Totals:
    """The accumulators of some heads, over the rows of one part of a split or of all."""

    def __init__(self, heads: Sequence[HeadSpec]) -> None:
        self.of = {head.name: accumulator(head) for head in heads}

    def add(self, rows: pa.Table) -> None:
        """Add rows of ``stages.AnswerRows``."""
        for name, total in self.of.items():
            head = total.head
            total.add(matrix(rows.column(f"{name}_outputs_0")), _targets(rows, head), _labels(rows, head))


def ridge_in(rows: pa.Table, head: HeadSpec) -> Floats | None:
    """What the ridge regression says of the rows that have a label; None where there is none for the head."""
    name = f"ridge_{head.name}"
    if name not in rows.column_names:
        return None
    guess = matrix(rows.column(name))[present(_targets(rows, head))].astype(np.float64)
    return guess[:, 0] if guess.shape[1] == 1 else guess


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
