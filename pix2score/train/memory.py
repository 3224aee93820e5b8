"""How much memory a training worker takes, and the budget that it is held to.

Imports torch only on a worker: a mistake in a flag should not have to wait for it.
"""

from __future__ import annotations

import re
import resource
import sys
from typing import TYPE_CHECKING

from pix2score.errors import ConfigError
from pix2score.host.scratch import size_text

if TYPE_CHECKING:
    import torch

_UNITS = {"MiB": 2**20, "GiB": 2**30}
_BUDGET = re.compile(r"(\d+(?:\.\d+)?)\s*(MiB|GiB)")


def parse_budget(text: str) -> int:
    """Bytes of ``12GiB`` or ``800MiB``. Raises ``ConfigError``."""
    found = _BUDGET.fullmatch(text)
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if not size:
        raise ConfigError(f"memory {text}: expected a size such as 12GiB or 800MiB")
    return size


def hold_to(budget: int, device: torch.device) -> None:
    """Let torch take no more than ``budget`` bytes of the GPU. Raises ``ConfigError`` if it has fewer."""
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    if budget > total:
        raise ConfigError(f"memory {size_text(budget)}: the GPU has {size_text(total)}; give no more")
    torch.cuda.set_per_process_memory_fraction(budget / total, device)


class Peak:
    """Most memory held since the last look: of a GPU by torch, without one by the process since it began."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def take_mib(self) -> float:
        """MiB; a GPU's count begins anew."""
        if self._device.type != "cuda":
            unit = 1 if sys.platform == "darwin" else 1024
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
        import torch

        most = torch.cuda.max_memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return most / 2**20
