"""What a picture can be moved towards, for each kind of head: which number of an answer grows, or where to.

Owns the meaning of up, of a target that a person names, and of an answer that has changed; how a picture is
moved is in ``ascend.ascent``. Shapes: N images.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.errors import ConfigError
from pix2score.heads import bins
from pix2score.heads.binary import BinaryHead
from pix2score.heads.binary_labels import BINARY
from pix2score.heads.class_labels import CLASSES
from pix2score.heads.classes import ClassesHead
from pix2score.heads.distribution import DistributionHead
from pix2score.heads.distribution_labels import DISTRIBUTION
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.ordered_labels import BINS, LEVELS
from pix2score.heads.preference import PREFERENCE, reward_quantiles
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.heads.tags import TAGS, TagsHead
from pix2score.heads.value import ValueHead
from pix2score.heads.value_labels import VALUE

MOVED = 0.05
"""Of the score: from this on an answer without bins counts as changed."""
_YES, _NO = ("yes", "true", "1"), ("no", "false", "0")
_NUM_LISTED = 10


@dataclass(frozen=True, slots=True)
class Aim:
    """One number of an answer, and where it should go."""

    of: str
    """Name of it in ``serve.graph.ANSWERS``."""
    what: str
    """It, for a person: ``probability of 30-50``."""
    index: int | None = None
    """Which, where the answer holds several by that name."""
    at: float | None = None
    """The number to come near to; None: as high as possible."""
    falls: bool = False
    """Whether it should be as low as possible instead of as high."""
    is_exclusive: bool = False
    """Whether it is one of probabilities that add up to 1."""

    @property
    def is_share(self) -> bool:
        """Whether it is a probability: moved as its log odds, which grow evenly up to either end."""
        return self.of in ("prob", "probs")

    def __str__(self) -> str:
        where = "lower" if self.falls else "higher" if self.at is None else f"at {self.at:g}"
        return f"{self.what} {where}"


class KindAims(ABC):
    """The aims of one kind of head."""

    @abstractmethod
    def up(self, head: Any, answer: Any, row: int) -> Aim:
        """More of what it says; of names without an order the most probable one more so."""

    @abstractmethod
    def towards(self, head: Any, wanted: str, calibration: Calibration) -> Aim:
        """What a person names. Raises ``ConfigError`` with what there is, if the head has no such thing."""

    @abstractmethod
    def away(self, head: Any, answer: Any, row: int) -> Aim:
        """Another answer than the one it gives."""

    @abstractmethod
    def changed(self, before: Any, after: Any) -> npt.NDArray[np.bool_]:
        """Which of two answers to N images differ in what is decided, [N]."""


class _Ordered(KindAims):
    def up(self, head: OrderedHead, answer: Any, row: int) -> Aim:
        return Aim("score", "score")

    def towards(self, head: OrderedHead, wanted: str, calibration: Calibration) -> Aim:
        ranges = {text: int(k) for k, text in head.legend().items()}
        best = ranges[wanted] if wanted in ranges else self._bin_of(head, wanted)
        return _of_bin(head, best)

    def _bin_of(self, head: OrderedHead, wanted: str) -> int:
        if head.are_classes:
            raise _unknown(head, wanted, "level", list(head.legend().values()))
        number = _number(head, wanted, head.min_value, math.inf, "a number, or one of its ranges")
        return int(bins.digitize(np.array([number]), head.bin_edges)[0])

    def away(self, head: OrderedHead, answer: Any, row: int) -> Aim:
        return _of_bin(head, int(answer.bin[row]), falls=True)

    def changed(self, before: Any, after: Any) -> npt.NDArray[np.bool_]:
        return np.asarray(before.bin != after.bin)


def _of_bin(head: OrderedHead, best: int, falls: bool = False) -> Aim:
    return Aim("probs", f"probability of {head.legend()[str(best)]}", best, None, falls, True)


class _Binary(KindAims):
    def up(self, head: BinaryHead, answer: Any, row: int) -> Aim:
        return Aim("prob", "probability of yes")

    def towards(self, head: BinaryHead, wanted: str, calibration: Calibration) -> Aim:
        is_yes = wanted.lower() in _YES or wanted in (head.positive or ())
        if not is_yes and wanted.lower() not in _NO:
            raise _unknown(head, wanted, "answer", ["yes", "no", *(head.positive or ())])
        return Aim("prob", "probability of yes", falls=not is_yes)

    def away(self, head: BinaryHead, answer: Any, row: int) -> Aim:
        return Aim("prob", "probability of yes", falls=bool(answer.prob[row] >= answer.threshold))

    def changed(self, before: Any, after: Any) -> npt.NDArray[np.bool_]:
        return np.asarray((before.prob >= before.threshold) != (after.prob >= after.threshold))


class _Classes(KindAims):
    def up(self, head: ClassesHead, answer: Any, row: int) -> Aim:
        return _of_name(head.classes, int(answer.best[row]), is_exclusive=True)

    def towards(self, head: ClassesHead, wanted: str, calibration: Calibration) -> Aim:
        return _named(head, wanted, "class", head.classes, is_exclusive=True)

    def away(self, head: ClassesHead, answer: Any, row: int) -> Aim:
        return _of_name(head.classes, int(answer.best[row]), falls=True, is_exclusive=True)

    def changed(self, before: Any, after: Any) -> npt.NDArray[np.bool_]:
        return np.asarray(before.best != after.best)


class _Tags(KindAims):
    """What is decided of tags is the most probable one: of hundreds near a threshold some always pass it."""

    def up(self, head: TagsHead, answer: Any, row: int) -> Aim:
        return _of_name(head.names, int(answer.logits[row].argmax()))

    def towards(self, head: TagsHead, wanted: str, calibration: Calibration) -> Aim:
        return _named(head, wanted, "tag", head.names)

    def away(self, head: TagsHead, answer: Any, row: int) -> Aim:
        return _of_name(head.names, int(answer.logits[row].argmax()), falls=True)

    def changed(self, before: Any, after: Any) -> npt.NDArray[np.bool_]:
        return np.asarray(before.logits.argmax(axis=1) != after.logits.argmax(axis=1))


def _of_name(names: Sequence[str], index: int, falls: bool = False, is_exclusive: bool = False) -> Aim:
    return Aim("probs", f"probability of {names[index]}", index, None, falls, is_exclusive)


def _named(head: HeadSpec, wanted: str, noun: str, names: Sequence[str], is_exclusive: bool = False) -> Aim:
    if wanted not in names:
        raise _unknown(head, wanted, noun, names)
    return _of_name(names, names.index(wanted), is_exclusive=is_exclusive)


class _Number(KindAims):
    """A head whose answer is a number, named ``of``."""

    def __init__(self, of: str) -> None:
        self._of = of

    def up(self, head: Any, answer: Any, row: int) -> Aim:
        return Aim(self._of, self._of)

    def towards(self, head: Any, wanted: str, calibration: Calibration) -> Aim:
        low, high = _ends(head, calibration)
        return Aim(self._of, self._of, at=_number(head, wanted, low, high, "a number"))

    def away(self, head: Any, answer: Any, row: int) -> Aim:
        """To where there is more room."""
        return Aim(self._of, self._of, falls=bool(answer.score[row] >= 0.5))

    def changed(self, before: Any, after: Any) -> npt.NDArray[np.bool_]:
        return np.asarray(np.abs(after.score.astype(np.float64) - before.score) >= MOVED)


def _ends(head: HeadSpec, calibration: Calibration) -> tuple[float, float]:
    """Least and greatest number that a head of a number answers: its range, else what it learnt from."""
    if isinstance(head, DistributionHead):
        return float(head.class_values[0]), float(head.class_values[-1])
    if isinstance(head, ValueHead):
        return head.bounds if head.range else (head.train_quantiles[0], head.train_quantiles[-1])
    rewards = reward_quantiles(calibration)
    return float(rewards[0]), float(rewards[-1])


AIMS: Mapping[str, KindAims] = {
    BINS: _Ordered(),
    LEVELS: _Ordered(),
    BINARY: _Binary(),
    VALUE: _Number("value"),
    DISTRIBUTION: _Number("value"),
    CLASSES: _Classes(),
    TAGS: _Tags(),
    PREFERENCE: _Number("reward"),
}


def aims_of(head: HeadSpec) -> KindAims:
    """The aims of a head's kind."""
    return AIMS[head.kind]


def _number(head: HeadSpec, wanted: str, low: float, high: float, expected: str) -> float:
    try:
        number = float(wanted)
    except ValueError:
        raise ConfigError(f"--towards {wanted}: head {head.name!r} expects {expected}") from None
    if math.isfinite(number) and low <= number <= high:
        return number
    within = f"of at least {low:g}" if math.isinf(high) else f"between {low:g} and {high:g}"
    raise ConfigError(f"--towards {wanted}: head {head.name!r} has numbers {within}")


def _unknown(head: HeadSpec, wanted: str, noun: str, names: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(wanted, names, n=1)
    more = f" and {len(names) - _NUM_LISTED} more" if len(names) > _NUM_LISTED else ""
    hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(names[:_NUM_LISTED])}{more}"
    return ConfigError(f"--towards {wanted}: head {head.name!r} has no such {noun}; {hint}")
