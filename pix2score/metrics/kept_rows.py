"""An accumulator that keeps its rows: numbers of a head whose answer is a few numbers per image.

Nothing is approximated on up to ``MAX_KEPT`` images of a worker; of more, the first ones stand for all, as
shards are mixed. Shapes: B images of a batch, n images kept, A outputs of a head.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import Calibration, HeadSpec, present
from pix2score.metrics.formulas import Floats, Numbers
from pix2score.metrics.protocol import Answers

MAX_KEPT = 1_000_000
"""Images of one worker: 4 MB per number that an image has."""


class Rows(NamedTuple):
    """Labelled images: raw ``outputs`` float64 [n, A], ``targets`` [n, …] as shards have them, and
    ``labels`` float64 [n, …]."""

    outputs: Floats
    targets: npt.NDArray[Any]
    labels: Floats


class KeptRows(ABC):
    """Numbers of one head from its rows: add batches, merge workers, compute at the end.

    A kind says what fits them (``calibration``), what they cost (``relative_loss``) and which numbers
    answers have (``numbers_of``).
    """

    def __init__(self, head: HeadSpec) -> None:
        self.head = head
        self.num_labelled = 0
        """Images counted, kept or not."""
        self._parts: list[Rows] = []  # in float32
        self._applied: Calibration = {}  # outputs of an evaluation are calibrated already

    def add(
        self, outputs_BA: npt.NDArray[Any], target_B: npt.NDArray[Any], label_B: npt.NDArray[Any]
    ) -> None:
        """Add one batch: raw outputs, targets and labels, missing ones included."""
        labelled = present(target_B)
        num_kept = sum(len(part.targets) for part in self._parts)
        self.num_labelled += int(labelled.sum())
        if num_kept < MAX_KEPT and labelled.any():
            outputs, targets, labels = (a[labelled] for a in (outputs_BA, target_B, label_B))
            self._parts.append(Rows(outputs.astype(np.float32), targets, labels.astype(np.float32)))

    def merge(self, other: Self) -> Self:
        """The accumulator of both sets of images."""
        merged = copy.copy(self)
        merged._parts = [*self._parts, *other._parts]
        merged.num_labelled = self.num_labelled + other.num_labelled
        return merged

    def rows(self) -> Rows:
        """The rows kept, of at least one labelled image."""
        outputs, targets, labels = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        return Rows(outputs.astype(np.float64), targets, labels.astype(np.float64))

    def answers(self, calibration: Calibration) -> Answers:
        """What the head says of the rows kept under ``calibration``; every image is a group of its own."""
        outputs, targets, labels = self.rows()
        said = self.head.measured(self.head.answer(outputs.astype(np.float32), calibration))
        return Answers(
            self.head, said.astype(np.float64), targets, labels, np.arange(len(targets)), calibration
        )

    def calibrated(self) -> Self:
        """The same rows as the saved model answers them: with the calibration that fits them best."""
        found = copy.copy(self)
        found._applied = self.calibration() if self.num_labelled else {}
        return found

    def result(self) -> Numbers:
        """Every number, beside ``prior_<name>`` of the constants; ``num_labelled`` alone without labels."""
        if not self.num_labelled:
            return {"num_labelled": 0}
        answers = self.answers(self._applied)
        constant = {f"prior_{name}": value for name, value in self.constant_of(answers).items()}
        return {"num_labelled": self.num_labelled, **self.numbers_of(answers), **constant}

    @abstractmethod
    def numbers_of(self, answers: Answers) -> Numbers:
        """The numbers of calibrated answers, each image counted once."""

    @abstractmethod
    def constant_of(self, answers: Answers) -> Mapping[str, float | None]:
        """The same numbers of the best constant answer, of those that it has."""

    @abstractmethod
    def calibration(self) -> dict[str, Any]:
        """What fits the images added best; plain values. Safe without any."""

    @abstractmethod
    def relative_loss(self) -> float:
        """Loss at the fitted calibration over that of the best constant; of at least one labelled image."""

    def ece(self, calibration: Calibration) -> float | None:
        """None: the kind has no calibration error, unless it says otherwise."""
        return None

    def picture(self) -> npt.NDArray[np.uint8] | None:
        """None: TensorBoard shows nothing of it, unless it says otherwise."""
        return None
