"""Pictures moved along the gradient of a network's answer: by Adam as far as it goes, by signs a little way.

The network is in eval mode: gradients pass BatchNorm, which answers with the statistics that it learnt.

Shapes: B images, S input size, A outputs of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pix2score.heads.aims import Aim
from pix2score.heads.spec import Calibration, HeadSpec
from pix2score.images.preprocess import RGBPixels
from pix2score.model.card import ModelCard
from pix2score.model.network import normalise
from pix2score.model.networks import Network
from pix2score.serve.graph import answers_of
from pix2score.train.step.augment import augmented
from pix2score.train.step.recipe import PRESETS, ROBUST, Augment

LIGHT = 255.0
NUM_DRAWS = 4
"""Random changes whose gradients are averaged in a step of the robust ascent."""
PATH, LARGEST_RATE = 2.5, 8.0
"""How many bounds a pixel may walk in all, and the longest first step of Adam, of 255; steps shrink."""
_PRESET: Augment = PRESETS["small"].recipe["augment"]
_JPEG = {key: value for key, value in ROBUST.items() if key.startswith("jpeg")}
SMOOTH = replace(_PRESET, **{key: value for key, value in ROBUST.items() if key not in _JPEG})
ROUNDED = Augment(**_JPEG)
"""The changes of the preset robust: those with a gradient, and JPEG, whose rounding has none."""


@dataclass(frozen=True, slots=True)
class Explained:
    """A network with what its outputs mean."""

    network: Network
    """In eval mode."""
    card: ModelCard

    @property
    def device(self) -> torch.device:
        """Where its weights are, and its pictures must be."""
        return next(self.network.parameters()).device

    def outputs(self, pixels_BSSC: Tensor, head: HeadSpec) -> Tensor:
        """[B, A] of RGB in 0..255, uint8 or float, on the graph; float64, as scores flatten out."""
        outputs: dict[str, Tensor] = self.network(normalise(pixels_BSSC, self.card.preprocess))[0]
        return outputs[head.name].double()

    def answers(self, pixels_BSSC: Tensor, head: HeadSpec) -> list[dict[str, Tensor]]:
        """What ``serve.graph.ANSWERS`` says of each picture."""
        return answers_of(head, self.outputs(pixels_BSSC, head), self.card.calibration(head.name))

    def gain(self, pixels_BSSC: Tensor, head: HeadSpec, aims: Sequence[Aim]) -> Tensor:
        """``gains`` of pictures, [B]."""
        return gains(head, self.outputs(pixels_BSSC, head), self.card.calibration(head.name), aims)


def gains(head: HeadSpec, outputs_BA: Tensor, calibration: Calibration, aims: Sequence[Aim]) -> Tensor:
    """The larger, the nearer each row is to its own aim, [B]: what an ascent makes large.

    Of probabilities it is their log odds, which do not flatten towards 0 and 1: where an answer is sure, the
    gradient of the probability is lost, and the model would look as if nothing could move it.
    """
    answers = answers_of(head, outputs_BA, calibration)
    rows = zip(answers, outputs_BA, aims, strict=True)
    return torch.stack([_gain(answer, row_A, calibration, aim) for answer, row_A, aim in rows])


def number_of(answer: dict[str, Tensor], aim: Aim) -> Tensor:
    """The number that ``aim`` is about, as a scalar."""
    number = answer[aim.of]
    return number if aim.index is None else number[aim.index]


def _gain(answer: dict[str, Tensor], outputs_A: Tensor, calibration: Calibration, aim: Aim) -> Tensor:
    number = number_of(answer, aim)
    if aim.at is not None:
        return -(number - aim.at).square()
    if aim.is_share:
        number = _log_odds(outputs_A, calibration, aim)
    return -number if aim.falls else number


def _log_odds(outputs_A: Tensor, calibration: Calibration, aim: Aim) -> Tensor:
    """Of the probability that ``aim`` is about, from the outputs themselves."""
    this = aim.index or 0
    if not aim.is_exclusive:
        odds: Tensor = outputs_A[this] * calibration.get("slope", 1.0) + calibration.get("offset", 0.0)
        return odds
    logits_A: Tensor = outputs_A / calibration.get("temperature", 1.0)
    others = torch.cat([logits_A[:this], logits_A[this + 1 :]])
    return logits_A[this] - torch.logsumexp(others, dim=0)


def ascended(
    model: Explained,
    head: HeadSpec,
    pixels_SSC: RGBPixels,
    aim: Aim,
    *,
    bound: float,
    num_steps: int,
    robust: bool = False,
) -> npt.NDArray[np.float32]:
    """One picture after ``num_steps`` of Adam towards ``aim``: float32 in 0..255, not yet rounded.

    No pixel is further than ``bound`` (a share of the range) from where it was. ``robust``: each step follows
    the mean gradient over ``NUM_DRAWS`` random changes, drawn by torch.
    """
    start_1SSC = _tensor(pixels_SSC[None], model)
    low, high = _box(start_1SSC, bound * LIGHT)
    moved_1SSC = start_1SSC.clone().requires_grad_()
    seen = _changed_at_random if robust else _as_it_is
    adam = torch.optim.Adam([moved_1SSC], lr=min(2 * PATH * bound * LIGHT / num_steps, LARGEST_RATE))
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 1 / num_steps, num_steps)
    for _ in range(num_steps):
        shown = seen(moved_1SSC)
        gain = model.gain(shown, head, [aim] * len(shown)).mean()
        (slope,) = torch.autograd.grad(-gain, [moved_1SSC])
        moved_1SSC.grad = slope / slope.abs().max().clamp(min=1e-30)  # Adam's epsilon is for such
        adam.step()
        falling.step()
        with torch.no_grad():
            moved_1SSC.copy_(moved_1SSC.clamp(low, high))
    return np.asarray(moved_1SSC[0].detach().cpu().numpy())


def _as_it_is(pixels_1SSC: Tensor) -> Tensor:
    return pixels_1SSC


def _changed_at_random(pixels_1SSC: Tensor) -> Tensor:
    """``NUM_DRAWS`` copies, each changed by itself; the gradient passes what rounding takes away."""
    smooth = augmented(pixels_1SSC.expand(NUM_DRAWS, -1, -1, -1), SMOOTH)
    with torch.no_grad():
        lost = augmented(smooth, ROUNDED) - smooth
    return smooth + lost


def rounded(moved_SSC: npt.NDArray[np.float32], before_SSC: RGBPixels, bound: float) -> RGBPixels:
    """Whole numbers next to those of ``moved_SSC``, no further than ``bound`` from those before."""
    start, reach = before_SSC.astype(np.float64), np.floor(bound * LIGHT + 1e-6)
    near = np.clip(np.rint(moved_SSC), start - reach, start + reach)
    return np.asarray(near.clip(0, LIGHT).astype(np.uint8))


def stepped(
    model: Explained,
    head: HeadSpec,
    moved_BSSC: RGBPixels,
    start_BSSC: RGBPixels,
    aims: Sequence[Aim],
    reach: int,
) -> RGBPixels:
    """Pictures of whole numbers one step of one on towards their aims, along the sign of the gradient.

    At most ``reach`` of 255 from ``start_BSSC``.
    """
    moved = _tensor(moved_BSSC, model).requires_grad_()
    (slope,) = torch.autograd.grad(model.gain(moved, head, aims).sum(), [moved])
    low, high = _box(_tensor(start_BSSC, model), reach)
    return np.asarray((moved + slope.sign()).clamp(low, high).detach().cpu().numpy().astype(np.uint8))


def _tensor(pixels_BSSC: RGBPixels, model: Explained) -> Tensor:
    return torch.from_numpy(np.array(pixels_BSSC)).to(model.device).float()


def _box(start: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Least and greatest value of each pixel."""
    return (start - reach).clamp(min=0), (start + reach).clamp(max=LIGHT)
