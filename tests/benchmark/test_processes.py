"""What this process and those below it use is what they used."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from pix2score.benchmark.processes import looking, memory_of, this_and_below, tree_cpu_s

WORK = (
    "import subprocess, sys, time\n"
    "held = b'x' * (64 << 20)\n"
    "while time.process_time() < 0.5: pass\n"
    "below = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\n"
    "print(below.pid, flush=True); sys.stdin.read(); below.communicate()\n"
)


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield worker
    if worker.poll() is None:
        worker.communicate()


def test_a_process_below_and_one_below_it_are_seen_with_what_they_use(worker: subprocess.Popen[str]) -> None:
    before = tree_cpu_s()
    assert worker.stdout is not None
    grandchild = int(worker.stdout.readline())
    found = {process.pid: process for process in this_and_below()}
    assert next(iter(found)) == os.getpid()
    assert found[grandchild].parent == worker.pid
    assert found[worker.pid].cpu_s >= 0.4
    assert "process_time" in found[worker.pid].line
    resident, shared = memory_of(worker.pid)
    assert 64 <= (resident - shared) / 2**20 < 200
    worker.communicate()
    assert worker.pid not in {process.pid for process in this_and_below()}
    assert memory_of(worker.pid) == (0, 0)
    assert found[worker.pid].line == ""
    assert tree_cpu_s() - before >= 0.4, "what has ended counts"


def test_work_is_looked_at_before_behind_and_meanwhile() -> None:
    looks: list[float] = []
    with looking(lambda: looks.append(time.monotonic())):
        begun = time.monotonic()
        while len(looks) < 3:
            time.sleep(0.01)
        ended, meanwhile = time.monotonic(), len(looks)
    assert looks[0] <= begun < looks[1] < ended
    assert len(looks) > meanwhile
    assert looks[-1] >= ended
