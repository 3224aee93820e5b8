"""Whether torch's threads get the cores that they are for, on a CPU that others use too.

Threads of OpenMP meet several times in each layer, and spin while they wait. Where one of them does not get a
core, all others burn theirs: on two cores beside another job that took both, a step of resnet18 at 64 px with
two threads took about four times as long as with one.
"""

from __future__ import annotations

import time

import torch

STARVED = 0.6
"""Share of its threads' time that a process gets at most where others use the cores. On an idle machine it is
above 0.9: threads that wait spin, which counts."""
LEAST_S = 5.0
"""Of an epoch's steps: shorter ones say nothing."""


class Threads:
    """Looks at what the steps of each epoch got, until it had something to say.

    Their number stays: another one would round differently, and a run is to repeat itself.
    """

    def __init__(self, *, is_cpu: bool) -> None:
        self._looks = is_cpu
        self._cpu_s, self._wall_s = time.process_time(), time.monotonic()

    def begin(self) -> None:
        """The steps of an epoch begin."""
        self._cpu_s, self._wall_s = time.process_time(), time.monotonic()

    def end(self, waited_s: float) -> str | None:
        """They end; in ``waited_s`` of their seconds no batch was there. What people should know of it."""
        number = torch.get_num_threads()
        wall_s = time.monotonic() - self._wall_s - waited_s
        fewer = fitting(number, time.process_time() - self._cpu_s, wall_s)
        if not self._looks or fewer == number:
            return None
        self._looks = False
        return (
            f"others use this machine's cores: {number} threads got those of {fewer}, and a step waits for "
            f"the slowest; --cpus-per-worker {fewer} may be faster"
        )


def fitting(number: int, cpu_s: float, wall_s: float) -> int:
    """How many threads there are cores for, of ``number`` that took ``cpu_s`` in ``wall_s`` seconds."""
    if wall_s < LEAST_S or cpu_s >= STARVED * number * wall_s:
        return number
    return max(1, round(cpu_s / wall_s))
