"""What an evaluation says about one head: numbers with intervals, beside references that know less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from pix2score.heads.spec import Calibration
from pix2score.metrics.formulas import Floats, Measure, Numbers
from pix2score.metrics.intervals import MIN_LABELLED, Interval, intervals, resamples
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.measures import values
from pix2score.metrics.protocol import Accumulator, Answers


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadVerdict:
    """The numbers of one head on one split; of a head without labels only that."""

    num_labelled: int = 0
    num_groups: int = 0
    reliable: bool = False
    """False below ``intervals.MIN_LABELLED`` images: the numbers then mean nothing, and have no interval."""
    main: str = ""
    """Name of the number to judge the head by."""
    numbers: Numbers = field(default_factory=dict)
    interval: dict[str, Interval | None] = field(default_factory=dict)
    """Of each number, by group, on the images kept."""
    constant: Numbers = field(default_factory=dict)
    """The same numbers of answers that know only the train split."""
    ridge: Numbers = field(default_factory=dict)
    """The same numbers of the ridge regression; empty without one."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What else to say of the calibration: of an ordered head its temperature, and the error without it."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it: the numbers beside the rest, under their names."""
        if not self.num_labelled:
            return {"num_labelled": 0, "reliable": False}
        plain = asdict(self)
        return {**plain.pop("numbers"), **plain.pop("notes"), **plain}


def head_verdict(
    answers: Answers,
    totals: Accumulator,
    calibration: Calibration,
    ridge: Floats | None,
    min_labelled: int = MIN_LABELLED,
) -> HeadVerdict:
    """Judge one head.

    Args:
        answers: of the images kept: they give the intervals, the references, and numbers that sums cannot.
        totals: of all images.
        calibration: that the answers were calibrated with.
        ridge: guesses of the ridge regression on the images kept, if there is one.
        min_labelled: images below which numbers are unreliable and have no interval.
    """
    num = len(answers.truth)
    if not num:
        return HeadVerdict()
    kind, is_reliable = numbers_of(answers.head), num >= min_labelled
    functions = kind.measures(answers)
    return HeadVerdict(
        num_labelled=totals.num_labelled,
        num_groups=len(np.unique(answers.group)),
        reliable=is_reliable,
        main=kind.main(answers.head),
        numbers=_numbers(functions, totals, num),
        interval=intervals(functions, resamples(answers.group)) if is_reliable else {},
        constant=kind.constant(answers),
        ridge={} if ridge is None else values(kind.guess_measures(answers, ridge), num),
        notes=kind.notes(answers, calibration),
    )


def _numbers(functions: Mapping[str, Measure], totals: Accumulator, num_kept: int) -> Numbers:
    """Over all images, and over those kept what sums cannot give."""
    of_all = totals.result()
    of_kept = {name: measure for name, measure in functions.items() if name not in of_all}
    return of_all | values(of_kept, num_kept)
