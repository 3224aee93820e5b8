"""How good each run is in each head, and whether it is better than the first one, from kept answers.

Shapes: N labelled images of the split, S seeds of a run, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from pix2score.compare.config import CONSTANT, RIDGE
from pix2score.compare.measuring import Measured
from pix2score.errors import DataError
from pix2score.metrics.formulas import Floats, Measure
from pix2score.metrics.intervals import MIN_LABELLED, Interval, interval, resamples
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.protocol import Answers

Verdict = Literal["better", "worse", "not told apart", "too few labels", "-"]
SEED_ERRORS = 2.0
"""Standard errors over seeds that a difference must exceed to be one of the recipes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A run's main number minus the first run's, each the mean over its seeds."""

    value: float
    interval: Interval | None
    """95 %: both runs on the same resamples of groups, so what makes a group hard for both cancels out; of
    the means over the seeds that were trained."""
    seed_error: float | None
    """Standard error of the difference over seeds, sqrt(s1^2 / S1 + s2^2 / S2): how far it would move with
    others. None where both have a single seed."""
    verdict: Verdict


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadResult:
    """One run, or a reference, in one head."""

    num_labelled: int
    main: str
    """Name of the number to judge the head by; more is better."""
    by_seed: tuple[float | None, ...]
    """The main number of each model, each on all images kept."""
    mean: float | None
    deviation: float | None
    """Standard deviation over seeds (divided by S - 1); None of a single one."""
    interval: Interval | None
    """95 %, of the mean over seeds, over resampled groups of images: the same models on other images."""
    loss: float | None
    """Of the kind's loss, mean over seeds, over that of the best constant: 1 is a constant that knows the
    train split alone."""
    difference: Difference | None = None
    """From the first run; None of the first run itself."""

    def to_dict(self) -> dict[str, Any]:
        """As compare.json holds it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sampled:
    """The main number of a run's models, [S], on all images and on each resample, [R][S]."""

    name: str
    num_labelled: int
    by_seed: tuple[float | None, ...]
    resampled: tuple[float | None, ...]
    """Mean over seeds, [R]; none of too few images."""
    loss: float | None

    @property
    def mean(self) -> float | None:
        """Over seeds."""
        return _mean(self.by_seed)

    @property
    def variance(self) -> float | None:
        """Over seeds; None of a single one."""
        found = [value for value in self.by_seed if value is not None]
        return float(np.var(found, ddof=1)) if len(found) > 1 else None

    def result(self, first: Sampled | None) -> HeadResult:
        """Beside the first run; None for the first run itself, or where that has no number."""
        variance = self.variance
        return HeadResult(
            num_labelled=self.num_labelled,
            main=self.name,
            by_seed=self.by_seed,
            mean=self.mean,
            deviation=None if variance is None else variance**0.5,
            interval=interval(self.resampled),
            loss=self.loss,
            difference=None if first is None else _difference(self, first),
        )


def head_results(head: str, runs: Mapping[str, Sequence[Measured]], first: str) -> dict[str, HeadResult]:
    """Name -> result in ``head`` of each run that has a model, then of the references.

    ``first``: the run that others are compared with, whose models all saw the same images as those of the
    others. Raises ``DataError`` if kept answers are not of the same images.
    """
    some = next(models[0] for models in runs.values() if models)
    answers = some.answers(head)
    weights = resamples(answers.group) if len(answers.truth) >= MIN_LABELLED else []
    found = {name: _sampled_run(models, head, answers, weights) for name, models in runs.items() if models}
    guess = some.ridge(head)
    if guess is not None and len(answers.truth):
        found[RIDGE] = _sampled([numbers_of(answers.head).guess_measures(answers, guess)], answers, weights)
    base = found.get(first)
    results = {name: each.result(None if name == first else base) for name, each in found.items()}
    return {**results, CONSTANT: _constant(answers)}


def _sampled_run(
    models: Sequence[Measured], head: str, reference: Answers, weights: Sequence[Floats]
) -> Sampled:
    measures = []
    for model in models:
        answers = model.answers(head)
        if not np.array_equal(answers.group, reference.group):
            raise DataError(
                f"{model.place.uri} holds answers to other images; remove it, and the split is measured again"
            )
        measures.append(numbers_of(answers.head).measures(answers))
    return _sampled(measures, reference, weights)


def _sampled(
    measures: Sequence[Mapping[str, Measure]], answers: Answers, weights: Sequence[Floats]
) -> Sampled:
    kind, num = numbers_of(answers.head), len(answers.truth)
    main, once = kind.main(answers.head), np.ones(num)
    if not num:
        return Sampled(main, 0, (None,) * len(measures), (), None)
    of_main = [each[main] for each in measures]
    losses = [each[kind.loss](once) if kind.loss in each else None for each in measures]
    loss, constant = _mean(losses), kind.constant(answers).get(kind.loss)
    return Sampled(
        main,
        num,
        tuple(measure(once) for measure in of_main),
        tuple(_mean([measure(w) for measure in of_main]) for w in weights),
        loss / constant if loss is not None and constant else None,
    )


def _constant(answers: Answers) -> HeadResult:
    kind, num = numbers_of(answers.head), len(answers.truth)
    main = kind.main(answers.head)
    value = kind.constant(answers).get(main) if num else None
    return HeadResult(
        num_labelled=num,
        main=main,
        by_seed=(value,),
        mean=value,
        deviation=None,
        interval=None,
        loss=1.0 if num else None,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    """None where one is: a mean of fewer would be another number."""
    found = [value for value in values if value is not None]
    return float(np.mean(found)) if found and len(found) == len(values) else None


def _difference(run: Sampled, first: Sampled) -> Difference | None:
    if run.mean is None or first.mean is None:
        return None
    pairs = zip(run.resampled, first.resampled, strict=True)
    found = interval(None if a is None or b is None else a - b for a, b in pairs)
    value, seed_error = run.mean - first.mean, _seed_error(run, first)
    verdict = verdict_of(value, found, seed_error) if run.resampled else "too few labels"
    return Difference(value=value, interval=found, seed_error=seed_error, verdict=verdict)


def _seed_error(run: Sampled, first: Sampled) -> float | None:
    parts = [each.variance / len(each.by_seed) for each in (run, first) if each.variance is not None]
    return sum(parts) ** 0.5 if parts else None


def verdict_of(difference: float, found: Interval | None, seed_error: float | None) -> Verdict:
    """``better`` or ``worse`` where the interval over images leaves out 0 and the difference is more than
    ``SEED_ERRORS`` times its error over seeds, if that is known; else ``not told apart``."""
    is_of_images = found is None or found.low <= 0 <= found.high
    if is_of_images or (seed_error is not None and abs(difference) <= SEED_ERRORS * seed_error):
        return "not told apart"
    return "better" if difference > 0 else "worse"
