"""Whether one model is better than another, on the same images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np

from pix2score.metrics.formulas import Floats, Measure
from pix2score.metrics.intervals import MIN_LABELLED, Interval, paired_interval, resamples
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.protocol import Answers


class Difference(TypedDict):
    """One number of both models, candidate minus other, and the paired 95 % interval of that."""

    candidate: float | None
    other: float | None
    difference: float | None
    interval: Interval | None


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadComparison:
    """Candidate against other in one head."""

    num_labelled: int
    verdict: str
    """``better`` or ``worse`` where the main number's interval leaves out 0, else ``no difference``.

    ``too few labels`` below ``intervals.MIN_LABELLED`` images."""
    main: str = ""
    """Name of the number that decides; empty with too few labels."""
    differences: dict[str, Difference] = field(default_factory=dict)
    """Of the main number and of the kind's loss (``nll``)."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it: the differences beside the rest, under their names."""
        main = {"main": self.main} if self.main else {}
        return {"num_labelled": self.num_labelled, **main, **self.differences, "verdict": self.verdict}


def compare(candidate: Answers, other: Answers) -> HeadComparison:
    """Compare two models' answers to the same images."""
    num, kind = len(candidate.truth), numbers_of(candidate.head)
    main = kind.main(candidate.head)
    if num < MIN_LABELLED:
        return HeadComparison(num_labelled=num, verdict="too few labels")
    ours, theirs, weights = kind.measures(candidate), kind.measures(other), resamples(candidate.group)
    differences = {name: _difference(ours[name], theirs[name], weights) for name in (main, kind.loss)}
    verdict = _verdict(differences[main]["interval"])
    return HeadComparison(num_labelled=num, verdict=verdict, main=main, differences=differences)


def _difference(ours: Measure, theirs: Measure, weights: list[Floats]) -> Difference:
    a, b = (measure(np.ones(len(weights[0]))) for measure in (ours, theirs))
    return {
        "candidate": a,
        "other": b,
        "difference": None if a is None or b is None else a - b,
        "interval": paired_interval(ours, theirs, weights),
    }


def _verdict(interval: Interval | None) -> str:
    if interval is None or interval.low <= 0 <= interval.high:
        return "no difference"
    return "better" if interval.low > 0 else "worse"


def is_better(verdicts: Iterable[str]) -> bool:
    """Whether a candidate may replace the other: ``better`` in one head at least, ``worse`` in none."""
    found = set(verdicts)
    return "better" in found and "worse" not in found
