"""Mixed precision without NaN: the forward pass's number format, and fp16's loss scaling.

bf16 has float32's range and needs no scaling; fp16 has not, which is where the reference system went NaN.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch

from pix2score.train.step.recipe import Precision

FIRST_SCALE = 2.0**14
GROW_EVERY = 1000
"""Good steps after which the scale doubles; a skipped one halves it."""
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Caster:
    """The number format of one worker, and its loss scale: the same on all workers, as they skip together."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self._device_type = device.type
        self.dtype = _DTYPES[_best_on(device) if precision == "auto" else precision]
        self.scale = FIRST_SCALE if self.dtype == torch.float16 else 1.0
        self._num_good = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The forward pass runs in this format where torch thinks it safe."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self._device_type, dtype=self.dtype)

    def adapt(self, *, skipped: bool) -> None:
        """Halve the scale after a skipped step, double it after ``GROW_EVERY`` good ones.

        Do nothing where there is no scaling.
        """
        if self.dtype != torch.float16:
            return
        self._num_good = 0 if skipped else self._num_good + 1
        if skipped:
            self.scale = max(1.0, self.scale / 2)
        elif self._num_good == GROW_EVERY:
            self.scale, self._num_good = self.scale * 2, 0

    def state_dict(self) -> dict[str, float]:
        """Plain values."""
        return {"scale": self.scale, "num_good": self._num_good}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` gave; only fp16 has a scale to restore."""
        if self.dtype == torch.float16:
            self.scale, self._num_good = float(state["scale"]), int(state["num_good"])


def _best_on(device: torch.device) -> str:
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
