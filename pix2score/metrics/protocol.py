"""What the numbers of a kind of head must be able to do.

Shapes: N images, A outputs of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, TypedDict

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import Calibration, HeadSpec, present
from pix2score.metrics.formulas import Bins, Floats, Measure, Numbers

Curves = Mapping[str, Any]
"""What a report draws of one head, as plain values for JSON; its form is its kind's."""


@dataclass(frozen=True, slots=True)
class Answers:
    """One head on N labelled images: what it said and what was true."""

    head: HeadSpec
    outputs: Floats
    """[N, A], calibrated: as ``HeadSpec.measured`` gives them."""
    truth: npt.NDArray[Any]
    """Targets, [N] or [N, …]."""
    label: Floats
    """Labels as numbers, [N] or [N, …]."""
    group: Bins
    """Any number that tells groups apart, [N]."""
    calibration: Calibration = field(default_factory=dict)
    """What was applied to the outputs, where it says more than they do: the threshold of a yes."""


class Change(TypedDict):
    """How far answers move when the same images are given otherwise: what a robust model keeps small."""

    images: int
    mean_prob_change: float
    mean_score_change: float
    same_bin: float
    """Share of the images whose most probable bin or class is the same, or whose value moved by less than a
    tenth of its spread."""


class Accumulator(Protocol):
    """Numbers of one head over any number of images in bounded memory: add batches, merge workers."""

    @property
    def head(self) -> HeadSpec:
        """Whose numbers they are."""

    def add(self, outputs_BA: npt.NDArray[Any], target_B: npt.NDArray[Any], label_B: Floats) -> None:
        """Add one batch: raw outputs, targets and labels, missing ones included."""

    def merge(self, other: Self) -> Self:
        """The accumulator of both sets of images."""

    @property
    def num_labelled(self) -> int:
        """Images counted."""

    def relative_loss(self) -> float:
        """Loss at the fitted calibration over that of the best constant; of at least one labelled image."""

    def calibration(self) -> dict[str, Any]:
        """What fits the images added best; plain values."""

    def calibrated(self) -> Self:
        """The same sums as the saved model answers: with the calibration that fits them best."""

    def result(self) -> Numbers:
        """Every number that sums give, beside those of constants; ``num_labelled`` alone without labels."""

    def ece(self, calibration: Calibration) -> float | None:
        """Calibration error under ``calibration``; None where the kind has none, or without images."""

    def picture(self) -> npt.NDArray[np.uint8] | None:
        """What TensorBoard shows of it, uint8 RGB [H, W, 3]."""


class KindNumbers(ABC):
    """The numbers of one kind of head."""

    loss: ClassVar[str]
    """The number that probabilities or values are judged by."""
    lower_is_better: ClassVar[tuple[str, ...]]
    higher_is_better: ClassVar[tuple[str, ...]]
    summary: ClassVar[tuple[str, ...]]
    """Numbers that a terminal shows beside the main one, those of the constant in brackets."""

    @property
    def part_summary(self) -> tuple[str, ...]:
        """Numbers shown beside the main one for a part of the images, or for altered images."""
        return self.summary

    @abstractmethod
    def main(self, head: HeadSpec) -> str:
        """Name of the number to judge a head by."""

    @abstractmethod
    def accumulator(self, head: HeadSpec) -> Accumulator:
        """An empty one."""

    @abstractmethod
    def measures(self, answers: Answers) -> dict[str, Measure]:
        """Every number of these answers, as functions of image weights."""

    @abstractmethod
    def guess_measures(self, answers: Answers, guess: Floats) -> dict[str, Measure]:
        """The same numbers of a reference that gives ``guess`` [N] or [N, …] for ``ridge_target``."""

    @abstractmethod
    def constant(self, answers: Answers) -> Numbers:
        """The same numbers of answers that know only the train split."""

    @abstractmethod
    def notes(self, answers: Answers, calibration: Calibration) -> dict[str, Any]:
        """What else to say of the calibration, for metrics.json."""

    def part_notes(self, answers: Answers) -> dict[str, float]:  # noqa: ARG002
        """What else to say of a part of the images, such as one source: what would suit it best."""
        return {}

    def label_number(self, head: HeadSpec, label: Floats) -> Floats | None:  # noqa: ARG002
        """Labels as one number per image, [N], NaN where missing; None where they are no such thing."""
        return label if label.ndim == 1 else None

    @abstractmethod
    def curves(self, answers: Answers, calibration: Calibration) -> Curves:
        """What a report draws, of at least one image."""

    @abstractmethod
    def score(self, head: HeadSpec, outputs: npt.NDArray[Any]) -> Floats:
        """One number per image by which the highest and the lowest are shown, [N]."""

    def has_number(self, head: HeadSpec) -> bool:  # noqa: ARG002
        """Whether the answer is a number in the label's unit: ``in_label_unit``."""
        return False

    def in_label_unit(self, answers: Answers) -> tuple[Floats, Floats] | None:  # noqa: ARG002
        """What was said and what is true as numbers in the label's unit, [N] each; None for other labels."""
        return None

    @abstractmethod
    def misses(self, head: HeadSpec, outputs: npt.NDArray[Any], truth: npt.NDArray[Any]) -> Floats:
        """How far each labelled image is from its label, [N]."""

    @abstractmethod
    def change(self, head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Change:
        """How far outputs ``after`` [N, A] lie from those ``before`` of the same images."""

    @abstractmethod
    def ridge_target(self, head: HeadSpec, target: npt.NDArray[Any]) -> Floats | None:
        """What a ridge regression learns of labelled images, [N] or [N, …]; None where none is compared."""

    def ridge_rows(
        self,
        head: HeadSpec,
        features_ND: Floats,
        others_MD: Floats,  # noqa: ARG002
        counts_N: Bins,  # noqa: ARG002
        target: npt.NDArray[Any],
    ) -> tuple[Floats, Floats] | None:
        """Features and numbers that an evaluation's ridge regression learns from; None where there is none.

        ``features_ND`` of the rows' first images; ``others_MD`` of the rest, ``counts_N`` of each row.
        """
        labelled = present(target)
        wanted = self.ridge_target(head, target[labelled])
        return None if wanted is None else (features_ND[labelled], wanted)
