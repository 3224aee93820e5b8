"""How a training worker reports: lines for the driver's log, and the files that people look at.

Only the first worker reports; on the others every call does nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pix2score.cluster.progress import Board
from pix2score.metrics.protocol import Accumulator
from pix2score.storage.folder import Folder
from pix2score.train.checkpoint import RunState
from pix2score.train.log import below_ridge, epoch_line, final_table, write_logs
from pix2score.train.settings import WorkerSettings
from pix2score.train.step.fitter import StepResult


class Reporter:
    """The board of the run and its log files."""

    def __init__(self, settings: WorkerSettings, board: Board, *, is_first: bool) -> None:
        self._settings, self._board, self._is_first = settings, board, is_first

    def begin(self, num_steps: int, run: RunState) -> None:
        """Say where the run goes on, if it is a resumed one."""
        if self._is_first:
            self._board.begin_at(num_steps)
        if num_steps:
            epochs = len(run.history)
            done = num_steps - (run.history[-1]["steps"] if epochs else 0)
            middle = f" and {done} steps" if done > 0 else ""
            self.say(f"resuming after epoch {epochs}{middle}")

    def say(self, line: str) -> None:
        """The driver logs ``line``."""
        if self._is_first:
            self._board.say(line)

    def step(self, number: int, result: StepResult, pace: str) -> None:
        """Count step ``number``, and show its loss, and ``pace``, behind the meter."""
        if result.skipped:
            self.say(f"step {number}: loss or gradient is not finite, skipped on all workers")
        if self._is_first:
            by_head = ", ".join(f"{name} {loss:.3f}" for name, loss in result.loss_by_head.items())
            self._board.note(f"loss {result.loss:.3f} ({by_head}), {pace}")
            self._board.add(1)

    def epoch(self, run: RunState, metrics: list[Accumulator]) -> None:
        """Say the newest entry of the history, and write history.jsonl and the TensorBoard events."""
        self.say(epoch_line(run.history[-1], self._settings.num_epochs, self._settings.heads))
        if self._is_first:
            write_logs(Folder(self._settings.out), run.history, run.curve, _pictures(run, metrics))

    def result(self, run: RunState) -> None:
        """Say whether the run ended early, and the table of the epoch that is saved."""
        if not run.best:
            return
        settings = self._settings
        if settings.solves_outputs:
            kept = ", ".join(f"{name} {value:.3g}" for name, value in run.history[-1]["penalties"].items())
            self.say(f"penalty on the squared weights that validation liked best: {kept}")
        elif len(run.history) < settings.num_epochs:
            self.say(f"stopped early: no better {settings.best_by} for {settings.patience} epochs")
        self.say(final_table(run.best["entry"], run.ridge, settings.heads))
        for line in below_ridge(run.best["entry"], run.ridge, settings.heads):
            self.say(line)


def _pictures(run: RunState, metrics: list[Accumulator]) -> dict[str, npt.NDArray[np.uint8]]:
    pictures = {f"confusion/{m.head.name}": picture for m in metrics if (picture := m.picture()) is not None}
    if run.preview is not None:
        pictures["as_the_network_sees_them"] = run.preview.numpy()
    return pictures
