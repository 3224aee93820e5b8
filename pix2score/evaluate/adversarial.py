"""How easily a head is led to another answer by a change that nobody sees.

Shapes: N images, S input size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pix2score.ascend.ascent import Explained, led_away
from pix2score.heads.aims import aims_of
from pix2score.images.preprocess import RGBPixels
from pix2score.metrics.findings import ADVERSARIAL_REACH
from pix2score.model.forward_torch import network_of

if TYPE_CHECKING:
    from pix2score.model.predictor import Predictor

NUM_STEPS = 4
"""Of one value of a pixel each: twice as many as reach the bound, so that a pixel may turn back once."""


class Adversary:
    """Leads pictures to other answers by the gradient of a predictor's network, loaded once."""

    def __init__(self, predictor: Predictor) -> None:
        network = network_of(predictor.card, predictor.weights, predictor.device).requires_grad_(False)
        self._predictor, self._model = predictor, Explained(network, predictor.card)

    def changed(self, pixels_NSSC: RGBPixels) -> dict[str, npt.NDArray[np.bool_]]:
        """Head -> which pictures it answers otherwise within ``ADVERSARIAL_REACH``, [N].

        As ``heads.aims`` says what another answer is, by the predictor's own answers to whole pixels.
        """
        before, found = self._predictor.predict(pixels_NSSC).heads, {}
        for head in self._predictor.card.heads:
            led = led_away(
                self._model,
                head,
                pixels_NSSC,
                before[head.name],
                reach=ADVERSARIAL_REACH,
                num_steps=NUM_STEPS,
            )
            after = self._predictor.predict(led).heads[head.name]
            found[head.name] = aims_of(head).changed(before[head.name], after)
        return found
