"""Into how many pieces a worker's batch is cut so that a step fits in memory; found by trying.

A step in pieces is the same step, but that BatchNorm sees the pieces and random changes are drawn anew for
each. Shapes: B images.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from pix2score.errors import ConfigError
from pix2score.host.scratch import size_text
from pix2score.model.network import MultiHeadModel
from pix2score.train.step.recipe import Recipe

MOST_PIECES = 8
"""Times as many as asked for, before activations are computed twice: a third more time, while pieces cost
next to none as long as they fill the device."""
STAGES = ("layer1", "layer2", "layer3", "layer4")
"""Of a ResNet, each a sequence of blocks."""


@dataclass(frozen=True, slots=True)
class Division:
    """How a worker computes its batch."""

    num_pieces: int
    recomputes: bool
    """Whether activations are computed again in the backward pass instead of being kept."""

    def __str__(self) -> str:
        again = ", activations computed again in the backward pass" if self.recomputes else ""
        return f"{self.num_pieces} piece{'s' if self.num_pieces > 1 else ''}{again}"


class Pieces:
    """The division that fits, as far as was tried. Workers that call ``tighten`` together agree."""

    def __init__(self, model: MultiHeadModel, recipe: Recipe) -> None:
        self._model, self._least = model, recipe.accumulate
        self.now = Division(recipe.accumulate, recipes_recompute(model, recipe))

    def tighten(self, num_rows: int, why: str) -> None:
        """Take twice the pieces, at last one image each; after eightfold, recompute activations.

        Raises ``ConfigError`` with ``why`` where nothing is left to try.
        """
        number = min(num_rows, 2 * self.now.num_pieces)
        may_double = number > self.now.num_pieces
        if may_double and (self.now.recomputes or number <= MOST_PIECES * self._least):
            self.now = Division(number, self.now.recomputes)
        elif not self.now.recomputes and recompute_activations(self._model.trunk):
            self.now = Division(min(num_rows, self._least), True)
        elif may_double:
            self.now = Division(number, self.now.recomputes)
        else:
            raise ConfigError(
                f"one image at a time does not fit in memory ({why}): choose a smaller input_size or "
                "backbone, or give more memory"
            )

    @contextlib.contextmanager
    def backward(self) -> Iterator[None]:
        """Around a backward pass: BatchNorm's statistics stay, though recomputing counts a batch again."""
        if not self.now.recomputes:
            yield
            return
        seen = [buffer.clone() for buffer in self._model.buffers()]
        yield
        for buffer, value in zip(self._model.buffers(), seen, strict=True):
            buffer.copy_(value)


def recipes_recompute(model: MultiHeadModel, recipe: Recipe) -> bool:
    """Whether activations are recomputed from the first step on. Raises ``ConfigError`` if they cannot be."""
    if recipe.checkpoint_activations and not recompute_activations(model.trunk):
        raise ConfigError("checkpoint_activations: not known for this backbone; give accumulate instead")
    return recipe.checkpoint_activations


def recompute_activations(trunk: nn.Module) -> bool:
    """Make ``trunk`` keep the input of each block alone, and compute the rest again in the backward pass.

    False, and nothing done, for a network that neither says how (timm's do) nor has a ResNet's stages.
    """
    setter = getattr(trunk, "set_grad_checkpointing", None)
    if setter is not None:
        try:
            setter(True)
        except (AssertionError, NotImplementedError):  # what timm's networks that cannot raise
            return False
        return True
    blocks = [block for name in STAGES for block in getattr(trunk, name, ())]
    for block in blocks:
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    return bool(blocks)


def is_out_of_memory(exc: RuntimeError) -> bool:
    """Whether a device had no memory left: torch's own error, or that of a library below it."""
    return isinstance(exc, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(exc)


def shortage(exc: RuntimeError, device: torch.device) -> str:
    """What was asked for in vain, and how much was held: one line."""
    asked = str(exc).strip().partition("\n")[0].partition(". GPU ")[0]
    if device.type != "cuda":
        return asked
    return f"{asked}, {size_text(torch.cuda.max_memory_allocated(device))} held before"
