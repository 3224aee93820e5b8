"""The account of a scoring run: what was planned, done and left out, and how fast.

And when too much failed to go on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pix2score.catalog.catalog import Catalog
from pix2score.cluster.progress import duration
from pix2score.cluster.stage_times import Slots, limiting_stage, stage_account
from pix2score.errors import FETCH_ERROR_CODES
from pix2score.images.failure_limits import ALL_MISSING_ROWS, check_any_reached, check_share
from pix2score.images.repeats import Repeats
from pix2score.nightly.plan import ScoringPlan
from pix2score.nightly.request import ScoringCounts
from pix2score.snapshots.pieces import Receipt
from pix2score.snapshots.snapshot import Snapshot

logger = logging.getLogger(__name__)


@dataclass
class Tally:
    """Rows of this publication, as their pieces are finished; stops a run that surely cannot be published.

    What failed before and fails again says nothing new: a catalog with many dead links must not stop every
    night that tries them.
    """

    max_failed: float
    num_planned: int
    """Without rows that are tried only because they had failed."""
    rows: int = 0
    retried: int = 0
    failed_again: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    again: Counter[str] = field(default_factory=Counter)
    """``failed_again`` by code, of the pieces that this run made itself."""
    measured: Counter[str] = field(default_factory=Counter)
    """``stage_times.totals`` of the pieces that this run made itself, added up."""
    resumed: Counter[str] = field(default_factory=Counter)
    """Those of ``failed`` that are in pieces of earlier runs."""

    answered: int = 0
    """Those of ``rows`` that heads answered from stored embeddings."""
    answer_s: float = 0.0
    """Seconds that took."""
    repeats: Repeats = field(default_factory=Repeats)
    """Of what this run fetched itself: images that share one content."""
    _first_before: int = 0
    """First tries of rounds that are over."""

    def __post_init__(self) -> None:
        self.resumed = Counter(self.failed)

    def add(self, receipt: Receipt) -> None:
        """Count a piece. Raises ``LimitError`` as soon as the limit of failures is surely passed."""
        self.rows += receipt.rows
        self.retried += receipt.retried
        self.failed_again += receipt.failed_again
        self.failed.update(receipt.failed)
        self.again.update(receipt.failed_again_by_code or _by_guess(receipt))
        self.measured.update(receipt.measured)
        self.repeats.add(receipt.repeated)
        self.check()

    def begin_again(self, failed: Mapping[str, int], failed_again: int) -> None:
        """Start over with another plan, as what was lost is planned again.

        Of the failures so far only those count that the new plan resumes.
        """
        self.failed, self.resumed, self.failed_again, self.again = (
            Counter(failed),
            Counter(failed),
            failed_again,
            Counter(),
        )
        self._first_before = self.rows - self.retried

    def check(self) -> None:
        """Raise ``LimitError`` if too many failed: of all that is planned, as the rest may still succeed."""
        total = self.failed.total() - self.failed_again
        check_share(total, self.rows, self.num_planned, self.max_failed, self.failed)
        if self._num_first >= ALL_MISSING_ROWS:
            check_any_reached(self.failed - self.resumed - self.again, self._num_first)

    def leave(self, by_reason: Mapping[str, int]) -> None:
        """So many of the planned rows are not done, by reason, as the time was up."""
        self.num_planned -= sum(by_reason.values()) - by_reason.get("retry", 0)

    def check_end(self, num_keys: int) -> None:
        """As ``check``, when all is done that a snapshot of ``num_keys`` rows would hold.

        One without a single answer, as no image could be had, is none, however small it is. Unless all of
        them had failed before: then nothing is lost.
        """
        self.check()
        if self.failed.total() > self.failed_again:
            check_any_reached(self.failed, num_keys)

    @property
    def _num_first(self) -> int:
        return self.rows - self.retried - self._first_before


def _by_guess(receipt: Receipt) -> Counter[str]:
    """``failed_again`` by code of a receipt that does not say it.

    As many as can be are of codes that say something about the bytes.
    """
    left, again = receipt.failed_again, Counter[str]()
    for code in sorted(receipt.failed, key=lambda code: code in FETCH_ERROR_CODES):
        again[code] = min(left, receipt.failed[code])
        left -= again[code]
    return again


def log_plan(run: str, catalog: Catalog, plan: ScoringPlan) -> None:
    """The plan in one line, and what a person should know about it."""
    counts = plan.counts
    reasons = ", ".join(f"{number} {why}" for why, number in counts.by_reason().items() if number)
    logger.info(
        "run %s: %d images to score (%s); %d carried over, %d removed",
        run,
        counts.to_score,
        reasons or "nothing",
        counts.carried,
        counts.removed,
    )
    if counts.withheld:
        logger.info("%d new ones are not asked for tonight: pending", counts.withheld)
    if counts.resumed:
        logger.info("%d of them were scored by an earlier run and are resumed", counts.resumed)
    if counts.null_id or counts.duplicate_key:
        logger.info(
            "left out: %d rows without an id, %d older rows of a key", counts.null_id, counts.duplicate_key
        )
    if catalog.fingerprint_kind == "uri":
        logger.info(
            "the catalog has no fingerprint column: an image changed in place under the same uri goes unseen"
        )


def plan_summary(counts: ScoringCounts) -> dict[str, Any]:
    """Counts of the plan: planned = scored + limited + left."""
    return {
        "planned": counts.planned,
        **counts.by_reason(),
        "carried": counts.carried,
        "removed": counts.removed,
        "resumed": counts.resumed,
        "pending": counts.pending,
    }


def scored_summary(counts: ScoringCounts, failed: Counter[str]) -> dict[str, Any]:
    """What this publication holds beside the carried rows."""
    return {
        "scored": counts.planned - counts.limited - counts.left,
        "limited": counts.limited,
        "left": counts.left,
        "pending": counts.pending,
        "failed": failed.total(),
        "failed_by_code": dict(failed),
    }


def answer_summary(tally: Tally) -> dict[str, Any]:
    """Rows that were answered from stored embeddings, and how fast; empty where none was."""
    if not tally.answered:
        return {}
    rate = tally.answered / max(1e-9, tally.answer_s)
    logger.info("%d rows answered from stored embeddings, %.0f rows/s", tally.answered, rate)
    return {
        "answered": {"rows": tally.answered, "seconds": round(tally.answer_s, 3), "rows_per_s": round(rate)}
    }


def rate_summary(
    measured: Mapping[str, float], slots: Slots, num_images: int, wall_s: float
) -> dict[str, Any]:
    """Rate, bytes and which stage limited the run; of the images that this run itself worked on."""
    account = stage_account(measured, slots, num_images, wall_s) if num_images else {}
    sentence = limiting_stage(account, wall_s, is_shared=slots.is_shared)
    logger.info("%s", sentence)
    return {
        "images_per_s": round(num_images / wall_s, 1) if num_images and wall_s else 0.0,
        "bytes": int(measured.get("bytes", 0)),
        "stages": account,
        "limiting_stage": sentence,
    }


def estimate(counts: ScoringCounts, live: Snapshot | None, row_bytes: int) -> dict[str, Any]:
    """What the plan would cost, by the rate and image size of the last run that scored anything.

    ``bytes_to_fetch`` and ``estimated_seconds`` are None where no earlier run says anything.
    """
    account = (live.manifest.get("account") if live else None) or {}
    num, images_per_s = account.get("images", 0), account.get("images_per_s", 0)
    to_fetch = round(counts.to_score * account["bytes"] / num) if num else None
    seconds = round(account["overhead_s"] + counts.to_score / images_per_s, 1) if images_per_s else None
    return {
        "bytes_to_fetch": to_fetch,
        "bytes_to_write": counts.to_score * row_bytes,
        "estimated_seconds": seconds,
    }


def log_estimate(facts: dict[str, Any]) -> None:
    """The estimate in one line."""
    fetch, seconds = facts["bytes_to_fetch"], facts["estimated_seconds"]
    logger.info(
        "would fetch %s, write %s, take %s",
        "an unknown number of bytes (no earlier run)" if fetch is None else size_text(fetch),
        size_text(facts["bytes_to_write"]),
        "unknown time (no earlier run)" if seconds is None else f"about {duration(seconds)}",
    )


def size_text(num_bytes: float) -> str:
    """``812 B``, ``3.4 MB`` or ``1.2 TB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
