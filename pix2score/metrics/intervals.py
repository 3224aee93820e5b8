"""How sure a number is: the same number again on resampled groups of images.

Images of one group (an artist) resemble each other, so whole groups are drawn, not images.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pix2score.metrics.formulas import Bins, Floats, Measure

NUM_RESAMPLES = 200  # the ends of a 95 % interval are then themselves good to a tenth of its width
MIN_LABELLED = 50
"""Fewer labelled images than this say nothing: the head's metrics are marked unreliable."""
MAX_ROWS = 200_000
"""Images kept for intervals; shards are mixed, so the first ones are a random sample."""
MAX_BYTES = 512 * 2**20
"""Of those images' answers: fewer are kept of a model with thousands of outputs."""


AWAY_FROM_0 = ("ece",)
"""Numbers that noise alone raises: sums of absolute differences. Resampling raises them once more."""
NOISE_GROWS = 1.15
"""Where resampling raises such a number to this multiple, noise alone may have made it."""


class Interval(NamedTuple):
    """The middle 95 %; a list of two numbers in JSON."""

    low: float
    high: float


def resamples(group: Bins, *, num: int = NUM_RESAMPLES, seed: int = 0) -> list[Floats]:
    """``num`` weight vectors [N]: how often each image's group is drawn.

    As many groups are drawn as there are, with replacement.
    """
    _, index = np.unique(group, return_inverse=True)
    num_groups, rng = int(index.max()) + 1 if len(index) else 0, np.random.default_rng(seed)
    return [
        rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups))[index].astype(np.float64)
        for _ in range(num)
    ]


def intervals(functions: Mapping[str, Measure], weights: Sequence[Floats]) -> dict[str, Interval | None]:
    """95 % interval of each number over the resamples."""
    return {
        name: (interval_away_from_0 if name in AWAY_FROM_0 else interval_of)(measure, weights)
        for name, measure in functions.items()
    }


def interval_of(measure: Measure, weights: Sequence[Floats]) -> Interval | None:
    """The middle 95 % of a number over the resamples."""
    return interval(measure(w) for w in weights)


def interval_away_from_0(measure: Measure, weights: Sequence[Floats]) -> Interval | None:
    """The same of a number that noise raises: what resampling adds to it is taken off instead (pivotal).

    Simulated, 200, 600 and 3,000 images, 100 runs each: the interval of a calibrated model holds 0 in 83 to
    89 % of them (the middle 95 % of the resamples: in none), errors of 0.03 and 0.1 lie within in 83 to 94 %.
    """
    value = measure(np.ones_like(weights[0])) if len(weights) else None
    resampled = [measure(w) for w in weights]
    ends, found = interval(resampled), [each for each in resampled if each is not None]
    if value is None or ends is None:
        return None
    may_be_noise = float(np.mean(found)) >= NOISE_GROWS * value
    low, high = max(0.0, 2 * value - ends.high), max(0.0, 2 * value - ends.low)
    return Interval(0.0 if may_be_noise else low, high)


def interval(found: Iterable[float | None]) -> Interval | None:
    """The middle 95 %, None where the number is mostly undefined."""
    values = list(found)
    defined = [value for value in values if value is not None]
    if 2 * len(defined) < len(values) or not defined:
        return None
    low, high = np.quantile(defined, (0.025, 0.975))
    return Interval(float(low), float(high))


def paired_interval(candidate: Measure, other: Measure, weights: Sequence[Floats]) -> Interval | None:
    """95 % interval of candidate minus other, both on the same resamples."""
    pairs = ((candidate(w), other(w)) for w in weights)
    return interval(None if a is None or b is None else a - b for a, b in pairs)
