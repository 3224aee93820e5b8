"""What a run leaves that ends at a time, scores a part, or only stages; and when all will be staged."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from pix2score.cluster.progress import duration
from pix2score.errors import DataError, StorageError
from pix2score.nightly.pending import left_of
from pix2score.nightly.plan import ScoringPlan
from pix2score.nightly.request import ScoringCounts
from pix2score.score.account import Tally
from pix2score.score.run import Run, executor
from pix2score.snapshots.pieces import STAGED, Receipt

logger = logging.getLogger(__name__)


def leave_rest(run: Run, plan: ScoringPlan, receipts: Sequence[Receipt], tally: Tally) -> list[Receipt]:
    """Pieces of the rows that will be pending; what is left is counted in ``plan.counts`` and ``tally``.

    Other rows that were not done keep the row that they have.
    """
    counts = plan.counts
    num_left = counts.to_score - sum(receipt.rows for receipt in receipts)
    if not run.config.publishes or not (num_left or plan.withheld):
        counts.left = num_left if run.config.stage_only else 0
        return []
    planned = plan.parts if num_left else []
    left = left_of(executor(run), run.out, run.origin, run.layout, plan, planned, list(receipts))
    if left.total != num_left:
        raise StorageError(
            f"run {run.id}: {left.total} rows are in no piece, expected {num_left}: not published, staged "
            "work is kept"
        )
    counts.left = num_left
    counts.pending += left.num_without_answer
    tally.leave(left.by_reason)
    if num_left:
        logger.info(
            "the time was up at %s: %d of %d images are left, %d of them are pending",
            run.deadline,
            num_left,
            counts.planned,
            left.num_without_answer,
        )
    return left.pieces


def is_as_before(counts: ScoringCounts, pending: Sequence[Receipt]) -> bool:
    """Whether the next snapshot would be the live one again, as nothing was done before the time was up."""
    return not (counts.planned - counts.left or counts.removed or counts.recarried or pending)


def staged_summary(run: Run, counts: ScoringCounts, num_done: int, wall_s: float) -> dict[str, Any]:
    """What is staged of the model that scores, what is left, and when that will be done at this rate.

    ``done_at`` takes it that runs which end at a time begin once a day. None where this run did nothing.
    """
    left = counts.left + counts.limited
    staged = counts.planned - left
    facts: dict[str, Any] = {
        "staged": staged,
        "left": left,
        "left_s": None,
        "left_runs": None,
        "done_at": None,
    }
    if left and num_done:
        facts["left_s"] = round(left * wall_s / num_done, 1)
        facts["left_runs"] = math.ceil(left / num_done)
        now = datetime.now().astimezone()
        ahead = timedelta(days=facts["left_runs"]) if run.deadline else timedelta(seconds=facts["left_s"])
        facts["done_at"] = (now + ahead).isoformat(timespec="minutes")
    logger.info("%s", _told(facts, run.card.version, is_daily=run.deadline is not None))
    discard_plan(run)
    return facts


def _told(facts: dict[str, Any], version: str, *, is_daily: bool) -> str:
    staged, left, total = facts["staged"], facts["left"], facts["staged"] + facts["left"]
    if not left:
        return f"all {total} rows of model {version} are staged: a run without --stage-only publishes them"
    when = ""
    if facts["left_s"] is not None:
        runs = f" in {facts['left_runs']} runs such as this one" if is_daily else ""
        when = f": {duration(facts['left_s'])} more at this rate{runs}, done about {facts['done_at']}"
    return f"{staged} of {total} rows of model {version} are staged, {left} are left{when}"


def discard_plan(run: Run) -> None:
    """Remove the plan of a run that publishes nothing: the next one makes its own. Pieces stay."""
    top = f"{STAGED}/{run.id}"
    try:
        entries = (run.out / top).entries()
        run.out.delete([f"{top}/{entry.path}" for entry in entries if entry.path.startswith("plan")])
    except (DataError, StorageError) as exc:
        logger.warning("the plan of this run could not be removed: %s", exc)
