"""The work of a night: every planned row is staged, from its picture or from its stored embedding."""

from __future__ import annotations

import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pix2score.catalog.contents import log_failures
from pix2score.cli.summary import Summary
from pix2score.cluster.rounds import Rounds
from pix2score.errors import StorageError
from pix2score.nightly.plan import ScoringPlan
from pix2score.score.account import (
    Tally,
    answer_summary,
    rate_summary,
    scored_summary,
)
from pix2score.score.leftover import leave_rest
from pix2score.score.run import Run, plan_of
from pix2score.snapshots.pieces import Receipt
from pix2score.storage.parts import total_rows

if TYPE_CHECKING:
    from pix2score.score.again import AnswerPipeline
    from pix2score.score.pipeline import ScorePipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Staged:
    """What a run has staged, and what that took."""

    plan: ScoringPlan
    """The last one that was made: what a lost node took with it is planned again."""
    receipts: list[Receipt]
    pending: list[Receipt]
    """Of rows that no work came to."""
    tally: Tally
    pipeline_s: float
    """Seconds but for those of answers from stored embeddings."""
    num_images: int
    """Rows that were answered from their picture, or failed."""
    rates: dict[str, Any]
    """Of the summary: images/s, and how busy each stage was."""


def stage(
    run: Run,
    plan: ScoringPlan,
    pipeline: ScorePipeline,
    again: AnswerPipeline,
    summary: Summary,
    *,
    began_s: float,
) -> Staged:
    """Stage what ``plan`` asks for; counts and rates go to ``summary``, also of a run that fails.

    ``began_s``: when the work began, by ``time.monotonic``; making ``pipeline`` is a part of it.

    Raises:
        LimitError: too many images failed; what is staged is kept.
        StorageError: rows were lost with parts of the cluster again and again.
    """
    num_first = plan.counts.planned - plan.counts.retry
    tally = Tally(
        run.config.max_failed,
        num_first,
        failed_again=plan.resumed_failed_again,
        failed=Counter(plan.resumed_failed),
    )
    try:
        plan, receipts = _execute(run, plan, pipeline, again, tally)
        pending = leave_rest(run, plan, receipts, tally)
        if run.config.publishes and run.config.max_failed < 1:  # 1 says that any share will do
            tally.check_end(plan.counts.keys - plan.counts.pending)
    finally:
        pipeline_s = time.monotonic() - began_s - tally.answer_s
        log_failures(tally.failed, run.catalog, run.config.image_root)
        summary.update({**scored_summary(plan.counts, tally.failed), "repeated": tally.repeats.summary()})
        tally.repeats.log(logger)
        num_images = tally.rows - tally.answered
        num_slots = pipeline.slots(total_rows(plan.parts))
        rates = rate_summary(tally.measured, num_slots, num_images, pipeline_s) | answer_summary(tally)
        summary.update(rates)
    return Staged(plan, receipts, pending, tally, pipeline_s, num_images, rates)


def _execute(
    run: Run, plan: ScoringPlan, pipeline: ScorePipeline, again: AnswerPipeline, tally: Tally
) -> tuple[ScoringPlan, list[Receipt]]:
    """Stage every planned row, or as many as there is time for.

    What a lost node took with it is planned again: resuming, within the run.
    """
    rounds, receipts = Rounds(), list[Receipt]()
    for number in rounds:
        if number > 1:
            plan = plan_of(run, f"plan-{number}")
            tally.begin_again(plan.resumed_failed, plan.resumed_failed_again)
        run.monitor.planned(plan.counts)
        receipts = _answers(run, plan, again, tally, f"answers-{number}") if plan.stored else []
        work = plan.parts and not run.is_over()
        for receipt in pipeline.receipts(plan.parts, f"piece-{number}", run.is_over) if work else ():
            run.laps.lap("first_piece" if tally.rows == tally.answered else "score")
            receipts.append(receipt)
            run.monitor.staged(receipt)
            tally.add(receipt)
        rounds.ended(plan.counts.to_score, sum(receipt.rows for receipt in receipts))
        if run.config.limit is not None or run.is_over():  # another limited plan would be of other images
            break
    if rounds.missing and not run.is_over():
        raise StorageError(
            f"run {run.id}: {rounds.missing} images were lost with parts of the cluster again and again; "
            "staged work is kept"
        )
    return plan, receipts


def _answers(run: Run, plan: ScoringPlan, again: AnswerPipeline, tally: Tally, prefix: str) -> list[Receipt]:
    """Stage the rows that stored embeddings answer."""
    started, receipts = time.monotonic(), list[Receipt]()
    for receipt in again.receipts(plan.stored, prefix, run.is_over) if not run.is_over() else ():
        receipts.append(receipt)
        run.monitor.staged(receipt)
        tally.add(receipt)
        tally.answered += receipt.rows
    tally.answer_s += time.monotonic() - started
    run.laps.lap("answer")
    return receipts
