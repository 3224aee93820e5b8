"""Whether torch's threads get the cores that they are for, on a CPU that others use too.

Threads of OpenMP meet several times in each layer, and spin while they wait. Where one of them does not get a
core, all others burn theirs.
"""

from __future__ import annotations

import time

import torch

from pix2score.train.checkpoint import EpochSums

STARVED = 0.6
"""Share of its threads' time that a process gets at most where others use the cores. Steps of resnet18 at 32
to 96 px with two threads on two idle cores got 0.94 to 1.0, and 0.79 to 0.9 with OMP_WAIT_POLICY=passive:
threads that wait spin, which counts."""
LEAST_S = 5.0
"""Of an epoch's steps: shorter ones say nothing."""


class Threads:
    """Looks at what the steps of each epoch got, until it had something to say.

    Their number stays: another one would round differently, and a run is to repeat itself.
    """

    def __init__(self, *, is_cpu: bool) -> None:
        self._looks, self._cpu_s, self._steps_s = is_cpu, 0.0, 0.0

    def begin(self, sums: EpochSums) -> None:
        """The steps of an epoch begin."""
        self._cpu_s, self._steps_s = time.process_time(), _busy_s(sums)

    def end(self, sums: EpochSums) -> str | None:
        """They end; what people should know, if anything."""
        number = torch.get_num_threads()
        fewer = fitting(number, time.process_time() - self._cpu_s, _busy_s(sums) - self._steps_s)
        if not self._looks or fewer == number:
            return None
        self._looks = False
        return (
            f"others use this machine's cores: {number} threads got those of {fewer}, and a step waits for "
            f"the slowest; --cpus-per-worker {fewer} may be faster"
        )


def _busy_s(sums: EpochSums) -> float:
    """Seconds of steps in which there was a batch; those of checkpoints do not count."""
    return sums.seconds - sums.waited


def fitting(number: int, cpu_s: float, wall_s: float) -> int:
    """How many threads there are cores for, of ``number`` that took ``cpu_s`` in ``wall_s`` seconds."""
    if wall_s < LEAST_S or cpu_s >= STARVED * number * wall_s:
        return number
    return max(1, round(cpu_s / wall_s))
