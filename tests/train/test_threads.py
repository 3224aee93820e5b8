"""Threads that do not get their cores are told of, once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pix2score.train.threads import fitting

BUSY = """
import os, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from pix2score.train import threads
from pix2score.train.checkpoint import EpochSums
threads.LEAST_S = 0.5
torch.set_num_threads(3)
looks, is_gpu = threads.Threads(is_cpu=True), threads.Threads(is_cpu=False)
for each in (looks, is_gpu):
    each.begin(EpochSums())
end, a = time.monotonic() + 1, torch.ones(800, 800)
while time.monotonic() < end:
    a = (a @ a).clamp(max=1)
sums = EpochSums(seconds=3.0, waited=2.0)
print(is_gpu.end(sums), looks.end(sums), looks.end(sums), torch.get_num_threads(), sep="|")
"""


@pytest.mark.parametrize(
    ("number", "cpu_s", "wall_s", "expected"),
    [(2, 19.0, 10.0, 2), (2, 10.0, 10.0, 1), (16, 40.0, 10.0, 4), (16, 120.0, 10.0, 16), (2, 0.2, 1.0, 2)],
)
def test_so_many_fit_as_cores_were_there_for(number: int, cpu_s: float, wall_s: float, expected: int) -> None:
    assert fitting(number, cpu_s, wall_s) == expected


def test_threads_that_share_a_core_are_told_of_once_and_stay() -> None:
    """A process held to one core: three threads get a third of their time each."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", BUSY],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env=environment,
    )
    of_gpu, told, again, number = done.stdout.strip().split("|")
    assert (of_gpu, again, number) == ("None", "None", "3")
    assert "3 threads got those of 1" in told
    assert "--cpus-per-worker 1" in told
