"""push: a table somewhere else becomes what the live snapshot is, by what changed since the last push."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, cast

from pix2score.cli.summary import Summary, recorded
from pix2score.errors import AccessError, ConflictError, DataError, TargetError
from pix2score.push.config import PushConfig
from pix2score.push.position import Position, Step, columns_of, next_step
from pix2score.push.rows import DueRows, due_rows, sent_schema
from pix2score.push.target import Target, check_fits, suiting_rows
from pix2score.push.targets import open_target
from pix2score.snapshots.leases import Lease
from pix2score.snapshots.manifest import live, new_run_id, read_snapshot
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder
from pix2score.summaries import PushSummary

logger = logging.getLogger(__name__)
TOLD_EVERY_S = 10.0


@dataclass(slots=True)
class _Counts:
    """What was sent so far, or would be."""

    since: int | None = None
    upserted: int = 0
    deleted: int = 0
    batches: int = 0
    is_whole: bool = False
    is_resumed: bool = False


def push(config: PushConfig) -> PushSummary:
    """Bring the table that ``config.to`` names to the live snapshot; return what was sent.

    Rows with an answer are in it, with their embeddings; failed, pending and removed ones are not. Killed at
    any moment, the same command goes on behind the last batch that was written.

    Raises:
        ConfigError: the table does not fit, or holds what another scores folder has.
        DataError: no snapshot there, or one that is damaged.
        TargetError: the target refused or failed; its position is kept.
        ConflictError: another push wrote to the same table meanwhile.
    """
    folder, started = Folder(config.scores), time.monotonic()
    newest = live(config.scores)
    run = new_run_id(datetime.now(UTC).strftime("%Y%m%dT%H%M%S"))
    with contextlib.closing(open_target(config)) as target:
        facts = {"job": "push", "run": run, "to": target.name}
        with recorded(folder, f"runs/{run}/summary.json", facts) as summary:
            summary.is_written = False
            held = None if config.recreate else target.position()
            work = _Push(config, folder, run, target, held, summary)
            work.go_on()
            summary.update(work.facts(newest))
            if work.counts.batches:
                _finish(target)
        logger.info("%s is at snapshot %d", target.name, summary["snapshot"])
    summary["seconds"] = round(time.monotonic() - started, 3)
    return cast("PushSummary", summary)


def _finish(target: Target) -> None:
    """All is written: what does not become of the rest is told, and is no failure of the push."""
    try:
        target.finish()
    except (TargetError, ConflictError) as exc:
        logger.warning("all rows are written, but not all is tidied up behind them: %s", exc)


@dataclass(slots=True)
class _Push:
    """A push at work."""

    config: PushConfig
    folder: Folder
    run: str
    target: Target
    position: Position | None
    summary: Summary
    counts: _Counts = field(default_factory=_Counts)

    def go_on(self) -> None:
        """Take step after step, until the target is at the live snapshot."""
        recreate, full = self.config.recreate, self.config.full
        self.counts.since = self.position.snapshot if self.position and self.position.done else None
        while (step := next_step(self.folder, self.position, full)) is not None:
            with self._kept(step) as is_there:
                if is_there:
                    self._take(step, recreate)
                    recreate, full = False, False

    @contextlib.contextmanager
    def _kept(self, step: Step) -> Iterator[bool]:
        """Keep ``vacuum`` from the snapshots of a step; whether they are there."""
        numbers = [one.number for one in (step.base, step.to) if one]
        with contextlib.ExitStack() as stack:
            for number in () if self.config.dry_run else numbers:
                lease = Lease(self.folder, f"{self.run}-{number}", snapshot=number)
                try:
                    lease.take()
                except AccessError as exc:
                    logger.warning("vacuum may remove snapshot %d while it is read: %s", number, exc)
                    break
                stack.enter_context(lease.kept())
                self.summary.is_written = True
            try:
                for number in numbers:
                    read_snapshot(self.folder, number)
            except DataError:
                yield False
                return
            yield True

    def _take(self, step: Step, recreate: bool) -> None:
        schema = sent_schema(self.folder, step.to)
        begun = step.position(self.folder.uri, schema)
        if self.position:
            check_fits(self.target.name, columns_of(schema), self.position.columns)
        if not self.config.dry_run:
            self.target.prepare(schema, begun, recreate)
        self.counts.is_whole |= step.base is None
        self.counts.is_resumed |= step.after is not None
        with due_rows(self.folder, step, schema) as due:
            logger.info(
                "snapshot %d: %d rows to send%s, %s to delete", step.to.number, due.num_sent,
                " behind those that were sent" if step.after else "",
                "whatever is not among them" if step.base is None else due.num_deleted,
            )  # fmt: skip
            if self.config.dry_run:
                self.counts.upserted += due.num_sent
                self.counts.deleted += due.num_deleted
            else:
                self._send(due, begun, self.config.batch_rows or suiting_rows(schema, self.target.batch_rows))
        self.position = replace(begun, after=None, done=True)

    def _send(self, due: DueRows, begun: Position, num_rows: int) -> None:
        """Write chunk after chunk, each with the position behind it."""
        progress = _Progress(due.num_sent + due.num_deleted)
        for chunk, is_last in due.chunks(num_rows):
            position = replace(begun, after=None if is_last else chunk.upto, done=is_last)
            self.target.write(chunk, position)
            self.counts.batches += 1
            self.counts.upserted += chunk.rows.num_rows
            self.counts.deleted += chunk.deleted.num_rows
            progress.add(chunk.rows.num_rows + chunk.deleted.num_rows)

    def facts(self, newest: Snapshot) -> dict[str, Any]:
        """What a summary says."""
        counts, position = self.counts, self.position
        return {
            "snapshot": position.snapshot if position else newest.number,
            "since": counts.since,
            "upserted": counts.upserted,
            "deleted": None if counts.is_whole else counts.deleted,
            "batches": counts.batches,
            "whole": counts.is_whole,
            "resumed": counts.is_resumed,
            "dry_run": self.config.dry_run,
        }


class _Progress:
    """Tells how many rows are written, and how many a second."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._began = self._told = time.monotonic()

    def add(self, num: int) -> None:
        self._done += num
        now = time.monotonic()
        if now - self._told >= TOLD_EVERY_S:
            self._told = now
            rate = self._done / (now - self._began)
            logger.info("%d of %d rows, %.0f a second", self._done, self._total, rate)
