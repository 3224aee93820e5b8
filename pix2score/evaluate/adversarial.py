"""How easily a head is led to another answer by a change that nobody sees.

Shapes: N images, S input size.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pix2score.ascend.ascent import Explained, stepped
from pix2score.heads.aims import aims_of
from pix2score.heads.spec import HeadSpec
from pix2score.images.preprocess import RGBPixels
from pix2score.metrics.findings import ADVERSARIAL_REACH, ADVERSARIAL_S
from pix2score.model.forward_torch import network_of

if TYPE_CHECKING:
    from pix2score.model.predictor import Predictor

logger = logging.getLogger(__name__)
NUM_STEPS = 4
"""Of one value of a pixel each: twice as many as reach the bound, so that a pixel may turn back once."""


class Adversary:
    """Leads pictures to other answers by the gradient of a predictor's network, loaded once."""

    def __init__(self, predictor: Predictor, most_s: float = ADVERSARIAL_S) -> None:
        network = network_of(predictor.card, predictor.weights, predictor.device).requires_grad_(False)
        self._predictor, self._model = predictor, Explained(network, predictor.card)
        self._left_s, self._is_told = most_s, False

    def changed(self, pixels_NSSC: RGBPixels) -> dict[str, npt.NDArray[np.bool_]]:
        """Head -> which pictures it answers otherwise within ``ADVERSARIAL_REACH``, [n].

        As ``heads.aims`` says what another answer is, by the predictor's own answers to whole pixels. Of the
        first n of N pictures, all unless time is over, which a warning tells.
        """
        heads, size = self._model.card.heads, self._predictor.batch_size
        found: dict[str, list[npt.NDArray[np.bool_]]] = {head.name: [] for head in heads}
        for start in range(0, len(pixels_NSSC), size):
            pixels = pixels_NSSC[start : start + size]
            before = self._predictor.predict(pixels).heads
            for head in heads:
                if self._has_time():
                    began = time.monotonic()
                    found[head.name].append(self._led(head, pixels, before[head.name]))
                    self._left_s -= time.monotonic() - began
        return {name: np.concatenate([*parts, np.zeros(0, dtype=bool)]) for name, parts in found.items()}

    def _has_time(self) -> bool:
        if self._left_s <= 0 and not self._is_told:
            logger.warning("adversarial: time is over, so fewer images are tried; --adversarial 0 tries none")
            self._is_told = True
        return self._left_s > 0

    def _led(self, head: HeadSpec, pixels_NSSC: RGBPixels, before: Any) -> npt.NDArray[np.bool_]:
        aims = [aims_of(head).away(head, before, row) for row in range(len(pixels_NSSC))]
        moved, changed = pixels_NSSC.copy(), np.zeros(len(pixels_NSSC), dtype=bool)
        for _ in range(NUM_STEPS):
            left = np.flatnonzero(~changed)  # gradients cost far more than answers
            if not len(left):
                break
            start, aimed = pixels_NSSC[left], [aims[row] for row in left]
            moved[left] = stepped(self._model, head, moved[left], start, aimed, ADVERSARIAL_REACH)
            after = self._predictor.predict(moved).heads[head.name]
            changed |= aims_of(head).changed(before, after)
        return changed
