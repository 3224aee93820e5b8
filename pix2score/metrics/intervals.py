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
    return {name: interval(measure(w) for w in weights) for name, measure in functions.items()}


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
