"""A night as metrics: what Prometheus and a dashboard see of it while it runs (``jobs/monitoring``)."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pix2score.cluster.counters import count, show
from pix2score.cluster.stage_times import STAGES
from pix2score.nightly.request import ScoringCounts
from pix2score.snapshots.pieces import Receipt
from pix2score.snapshots.snapshot import Snapshot
from pix2score.snapshots.tables import FAILED, OK


@dataclass(slots=True)
class NightMonitor:
    """Metrics of one run into the scores folder ``scores``, which is their label."""

    scores: str
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of the images that this run staged itself."""
    left: int = 0
    waiting: int = 0
    """Rows staged and not yet published."""

    def live(self, snapshot: Snapshot | None) -> None:
        """Show the live snapshot."""
        if snapshot is None:
            return
        manifest = snapshot.manifest
        show("snapshot_number", snapshot.number, scores=self.scores)
        for status, rows in ((OK, manifest["counts"]["ok"]), (FAILED, manifest["counts"]["failed"])):
            show("snapshot_rows", rows, scores=self.scores, status=status)
        if published := manifest.get("published_at"):
            at = datetime.fromisoformat(published).timestamp()
            show("published_time_seconds", at, scores=self.scores)

    def planned(self, counts: ScoringCounts) -> None:
        """Show how much there is to do, once it is known, and again when lost work is planned again."""
        self.left, self.waiting = counts.to_score, counts.resumed
        self._show_rows()

    def staged(self, receipt: Receipt) -> None:
        """Count a piece that is staged."""
        self.left, self.waiting = max(0, self.left - receipt.rows), self.waiting + receipt.rows
        self._show_rows()
        failed = Counter(receipt.failed)
        self.outcomes += failed + Counter({OK: receipt.rows - failed.total()})
        for outcome, number in self.outcomes.items():
            show("night_images", number, scores=self.scores, outcome=outcome)
        count("fetched_bytes_total", receipt.measured.get("bytes", 0), scores=self.scores)
        for stage in STAGES:
            count("stage_seconds_total", receipt.measured.get(stage, 0), scores=self.scores, stage=stage)

    def drifted(self, drift: Mapping[str, float]) -> None:
        """Show how far tonight's answers are from the live ones, whether they go live or not."""
        for head, psi in drift.items():
            show("drift", psi, scores=self.scores, head=head)

    def published(self, snapshot: Snapshot) -> None:
        """Show the snapshot that went live: nothing waits any more."""
        self.live(snapshot)
        self.waiting = 0
        self._show_rows()
        self.up_to_date()

    def up_to_date(self) -> None:
        """Show that the live snapshot is now what catalog and model ask for."""
        show("up_to_date_time_seconds", time.time(), scores=self.scores)

    def _show_rows(self) -> None:
        show("rows_left", self.left, scores=self.scores)
        show("rows_staged", self.waiting, scores=self.scores)
