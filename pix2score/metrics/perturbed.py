"""What a head's numbers become when its images are altered more and more. Shapes: N images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy.typing as npt

from pix2score.metrics.formulas import Floats, Numbers
from pix2score.metrics.intervals import Interval, interval_of, paired_interval, resamples
from pix2score.metrics.kinds import numbers_of
from pix2score.metrics.measures import values
from pix2score.metrics.parts import MIN_PART
from pix2score.metrics.protocol import Answers, Change


@dataclass(frozen=True, kw_only=True, slots=True)
class AtStrength:
    """One head on images altered in one way; intervals by group, of the main number."""

    strength: float | None
    """None: as they are."""
    numbers: Numbers
    interval: Interval | None = None
    difference: float | None = None
    """Main number less that of the same images unaltered."""
    difference_interval: Interval | None = None
    """Paired: on the same groups redrawn."""
    change: Change | None = None
    """How far answers moved from those to the same images unaltered, labelled or not."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it: the numbers beside the rest, under their names."""
        plain = {name: value for name, value in asdict(self).items() if value is not None}
        return {**plain.pop("numbers"), **plain.pop("change", {}), **plain}


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadPerturbed:
    """One head under every perturbation."""

    main: str
    num_labelled: int
    plain: AtStrength
    altered: Mapping[str, tuple[AtStrength, ...]] = field(default_factory=dict)
    """Perturbation -> strengths, the mildest first."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        altered = {name: [at.to_dict() for at in found] for name, found in self.altered.items()}
        head = {"main": self.main, "num_labelled": self.num_labelled}
        return {**head, "unperturbed": self.plain.to_dict(), **altered}


@dataclass(frozen=True, kw_only=True, slots=True)
class Perturbed:
    """The heads of a model on a sample of a split."""

    num_rows: int
    heads: Mapping[str, HeadPerturbed]

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        return {"num_rows": self.num_rows, "heads": {n: head.to_dict() for n, head in self.heads.items()}}


@dataclass(frozen=True, slots=True)
class Copy:
    """One head's outputs on every image altered in one way: raw ``outputs`` [M, A], and the labelled ones."""

    outputs: npt.NDArray[Any]
    answers: Answers


def head_perturbed(plain: Copy, altered: Mapping[str, Mapping[float, Copy]]) -> HeadPerturbed:
    """Measure one head; ``altered``: perturbation -> strength -> the same images in the same order."""
    head, num = plain.answers.head, len(plain.answers.truth)
    main = numbers_of(head).main(head)
    weights = resamples(plain.answers.group) if num >= MIN_PART else []
    of_plain = AtStrength(
        strength=None, numbers=_numbers(plain.answers), interval=_interval(plain.answers, main, weights)
    )
    found = {
        name: tuple(_at(strength, copy, plain, main, weights) for strength, copy in copies.items())
        for name, copies in altered.items()
    }
    return HeadPerturbed(main=main, num_labelled=num, plain=of_plain, altered=found)


def _at(strength: float, copy: Copy, plain: Copy, main: str, weights: list[Floats]) -> AtStrength:
    kind, numbers, before = numbers_of(plain.answers.head), _numbers(copy.answers), _numbers(plain.answers)
    ours, theirs = numbers.get(main), before.get(main)
    paired = None
    if weights:
        candidate, other = (kind.measures(answers)[main] for answers in (copy.answers, plain.answers))
        paired = paired_interval(candidate, other, weights)
    return AtStrength(
        strength=strength,
        numbers=numbers,
        interval=_interval(copy.answers, main, weights),
        difference=None if ours is None or theirs is None else ours - theirs,
        difference_interval=paired,
        change=kind.change(plain.answers.head, plain.outputs, copy.outputs),
    )


def _numbers(answers: Answers) -> Numbers:
    num = len(answers.truth)
    return values(numbers_of(answers.head).measures(answers), num) if num else {}


def _interval(answers: Answers, main: str, weights: list[Floats]) -> Interval | None:
    return interval_of(numbers_of(answers.head).measures(answers)[main], weights) if weights else None
