"""When a training worker makes a checkpoint.

Every epoch, every M minutes, before a node is taken away, and when the process is asked to end.
"""

from __future__ import annotations

import time

from pix2score.cluster.ray_patches.services import is_preemption_near
from pix2score.host import termination
from pix2score.train.checkpoint import RunState, save
from pix2score.train.reporter import Reporter
from pix2score.train.settings import WorkerSettings
from pix2score.train.step.collectives import first_says
from pix2score.train.step.fitter import Fitter


class Saver:
    """Checkpoints of one worker; all workers ask and save at the same steps."""

    def __init__(
        self, fitter: Fitter, run: RunState, settings: WorkerSettings, reporter: Reporter, *, is_first: bool
    ) -> None:
        self._fitter, self._run, self._settings, self._reporter = fitter, run, settings, reporter
        self._is_first = is_first
        self._saved_at = time.monotonic()
        self._was_warned = False
        """Of a preemption, for which one checkpoint is made at once."""

    def save(self) -> None:
        """Put a checkpoint of this moment in storage."""
        save(self._fitter, self._run, self._settings, is_first=self._is_first)
        self._saved_at = time.monotonic()

    def is_due(self) -> bool:
        """Whether M minutes are over, or a node will soon be taken away; the same on all workers."""
        is_preempted = is_preemption_near() and not self._was_warned
        if is_preempted:
            self._was_warned = True
            self._reporter.say("a node is about to be taken away: checkpoint now")
        is_late = time.monotonic() - self._saved_at > 60 * self._settings.checkpoint_minutes
        return is_preempted or first_says(is_late, self._fitter.device)

    def leave_if_asked(self) -> None:
        """After a checkpoint, end the process if it was asked to."""
        if termination.is_asked():
            self._reporter.say("told to end: a checkpoint is made")
            termination.leave()
