"""A training whose outputs are solved: each epoch is one strength of the penalty, over rows embedded once."""

from __future__ import annotations

from collections.abc import Callable

from pix2score.metrics.protocol import Accumulator
from pix2score.train.checkpoint import RunState
from pix2score.train.embedded import EmbeddedRows
from pix2score.train.settings import WorkerSettings
from pix2score.train.step.collectives import gather_metrics
from pix2score.train.step.fitter import Fitter, StepResult
from pix2score.train.step.probe import NUM_STRENGTHS, Probe, ProbePath
from pix2score.train.step.validate import measure


class Probing:
    """The path of one worker, from where its last checkpoint left it."""

    def __init__(
        self, fitter: Fitter, run: RunState, settings: WorkerSettings, embedded: EmbeddedRows, number: int
    ) -> None:
        """``number``: of strengths, from strong to weak."""
        kept = run.history[-1].get("penalties", {}) if run.history else {}
        self._path = ProbePath(fitter.model, settings.heads, number, kept)
        self._fitter, self._settings, self._embedded = fitter, settings, embedded
        self._probe: Probe | None = None

    @property
    def kept(self) -> dict[str, float]:
        """Head -> strength of the penalty at which its outputs were solved."""
        return dict(self._path.kept)

    def is_done(self, num_epochs: int) -> bool:
        """Whether no head may become better after so many epochs."""
        return not self._path.open_heads(num_epochs)

    def solve(self, epoch: int, validated: Callable[[], list[Accumulator]]) -> StepResult:
        """Solve the heads that may become better at the strength of an epoch, from 0.

        ``validated``: gives the metrics of the outputs that the model has, of a run that was resumed.
        """
        if self._probe is None:
            rows, fitter = self._embedded.whole("train"), self._fitter
            self._probe = Probe(fitter.model, rows, self._settings.heads, fitter.recipe, fitter.device)
            if epoch:
                self._path.know(validated())
        return self._probe.solve(self._path.open_heads(epoch), self._path.strengths[epoch])

    def pace(self, epoch: int) -> str:
        """What a line of progress says of the epoch."""
        return f"penalty {self._path.strengths[epoch]:.3g}"

    def keep_better(self, metrics: list[Accumulator], epoch: int) -> list[Accumulator]:
        """As ``ProbePath.keep_better``."""
        return self._path.keep_better(metrics, epoch)

    def take_num_seen(self) -> int:
        """Rows that this worker looked at since the last call, each as often as it did."""
        assert self._probe is not None, "solved before"
        seen, self._probe.num_seen = self._probe.num_seen, 0
        return seen


def begin_solved(
    fitter: Fitter, settings: WorkerSettings, embedded: EmbeddedRows
) -> tuple[list[Accumulator], dict[str, float]]:
    """Solve the outputs over a trunk that steps will move; metrics of them, and the penalty of each head.

    A trunk that knows something would else be led by outputs that know nothing:
    https://arxiv.org/abs/2202.10054
    """
    probing = Probing(fitter, RunState(), settings, embedded, NUM_STRENGTHS)
    metrics: list[Accumulator] = []
    for i in range(NUM_STRENGTHS):
        if probing.is_done(i):
            break
        probing.solve(i, list)  # begun here: it never asks what it knows
        mine = measure(
            fitter.model,
            embedded.batches("val", 0),
            settings.heads,
            fitter.preprocess,
            fitter.device,
            fitter.cast,
        )
        metrics = probing.keep_better(gather_metrics(mine), i)
    if fitter.average:
        fitter.average.load_state_dict(fitter.model.state_dict())
    return metrics, probing.kept
