"""The numbers of a head, by its kind: how they are summed, measured, compared with references and drawn.

Shapes: N images, A outputs of a head.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from pix2score.heads.binary_labels import BINARY
from pix2score.heads.class_labels import CLASSES
from pix2score.heads.distribution_labels import DISTRIBUTION
from pix2score.heads.ordered_labels import BINS, LEVELS
from pix2score.heads.preference import PREFERENCE
from pix2score.heads.spec import HeadSpec
from pix2score.heads.tag_labels import TAGS
from pix2score.heads.value_labels import VALUE
from pix2score.metrics.binary import BinaryNumbers
from pix2score.metrics.classes import ClassNumbers
from pix2score.metrics.distribution import DistributionNumbers
from pix2score.metrics.formulas import Numbers
from pix2score.metrics.ordered import OrderedNumbers
from pix2score.metrics.preference import PreferenceNumbers
from pix2score.metrics.protocol import Accumulator, KindNumbers
from pix2score.metrics.tags import TagNumbers
from pix2score.metrics.value import ValueNumbers

_ORDERED = OrderedNumbers()
NUMBERS: Mapping[str, KindNumbers] = {
    BINS: _ORDERED,
    LEVELS: _ORDERED,
    BINARY: BinaryNumbers(),
    VALUE: ValueNumbers(),
    DISTRIBUTION: DistributionNumbers(),
    CLASSES: ClassNumbers(),
    TAGS: TagNumbers(),
    PREFERENCE: PreferenceNumbers(),
}


def numbers_of(head: HeadSpec) -> KindNumbers:
    """The numbers of a head's kind."""
    return NUMBERS[head.kind]


def accumulator(head: HeadSpec) -> Accumulator:
    """An empty one."""
    return numbers_of(head).accumulator(head)


def main_metric(head: HeadSpec) -> str:
    """The number to judge a head by: more is better."""
    return numbers_of(head).main(head)


def loss_metric(head: HeadSpec) -> str:
    """The number that probabilities or values are judged by: less is better."""
    return numbers_of(head).loss


def metrics_to_rank_by(head: HeadSpec) -> tuple[str, ...]:
    """Metrics of a head by which the saved epoch may be chosen."""
    numbers = numbers_of(head)
    return (*numbers.lower_is_better, *numbers.higher_is_better)


def is_metric(best_by: str, heads: Iterable[HeadSpec]) -> bool:
    """Whether epochs can be ranked by it: ``val_loss``, or ``<head>.<metric>``."""
    name, _, metric = best_by.partition(".")
    return best_by == "val_loss" or any(h.name == name and metric in metrics_to_rank_by(h) for h in heads)


def lower_is_better(metric: str) -> bool:
    """Whether less of a metric is better, of whatever kind."""
    return any(metric in numbers.lower_is_better for numbers in NUMBERS.values())


def results(metrics: Sequence[Accumulator]) -> dict[str, Numbers]:
    """Head -> ``Accumulator.result``."""
    return {m.head.name: m.result() for m in metrics}


class Calibrations(TypedDict):
    """How answers are calibrated, as ``model.folder.save_model`` takes it."""

    temperatures: dict[str, float]
    """Of the heads that a temperature calibrates."""
    calibrations: NotRequired[dict[str, dict[str, Any]]]


def calibrations(metrics: Sequence[Accumulator]) -> Calibrations:
    """What fits the images counted best."""
    found = {m.head.name: m.calibration() for m in metrics}
    other = {name: c for name, c in found.items() if c.keys() != {"temperature"}}
    temperatures = {name: float(c["temperature"]) for name, c in found.items() if name not in other}
    return {"temperatures": temperatures, "calibrations": other} if other else {"temperatures": temperatures}
