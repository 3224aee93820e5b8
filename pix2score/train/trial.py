"""The first epochs of a training, without augmentation, until it is found what of it the data set bears."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict

from pix2score.train.checkpoint import RunState
from pix2score.train.step.batch import Batch
from pix2score.train.step.bearing import find_bearing
from pix2score.train.step.fitter import Fitter

FEWEST, MOST = 8, 3
"""The trial takes at least an eighth of all epochs, at most a third."""


class Trial:
    """Of one worker; all workers ask it together, and are told the same."""

    def __init__(self, fitter: Fitter, run: RunState, num_epochs: int) -> None:
        self._fitter, self._run, self._num_epochs = fitter, run, num_epochs

    def is_due(self) -> bool:
        """Whether the epoch that has ended may have been the last one without augmentation."""
        is_over = self._run.augment is not None
        return (
            self._fitter.recipe.tries_augment
            and not is_over
            and len(self._run.history) >= self._num_epochs // FEWEST
        )

    def end_if_told(self, validation: Callable[[], Iterator[Batch]]) -> str | None:
        """Do from now on what the data set bears, and return what to say of it; None while it goes on.

        Without augmentation a small data set is soon learnt by heart. So where the last epoch was not the
        best one the training goes back to the best, and where that knows too little to tell, all is done.
        """
        fitter, run = self._fitter, self._run
        num_done, best = len(run.history), run.best
        is_behind = best is not None and best["entry"]["epoch"] < num_done
        if best is not None and is_behind:
            fitter.go_back(best["weights"])
        found = find_bearing(fitter, validation(), fitter.recipe.augment)
        if found is None and not is_behind and num_done < self._num_epochs // MOST:
            return None
        fitter.augment = found.augment if found else fitter.recipe.augment
        run.augment = asdict(fitter.augment)
        told = f"augmentation from now on: {found or 'all, as too little is learnt to tell'}"
        return told + (f"; goes on from epoch {best['entry']['epoch']}" if best and is_behind else "")
