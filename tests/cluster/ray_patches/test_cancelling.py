"""A task that is cancelled as it ends does not end this process: the thread that takes answers cancels it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from pix2score.cluster.ray_patches.cancelling import cancel
from pix2score.cluster.sink import Staging
from pix2score.cluster.tasks import RayExecutor
from pix2score.errors import DataError

usefixtures = pytest.mark.usefixtures("ray_session")
NUM_TASKS = 3
TAKES_ANSWERS = "worker.io"  # Ray's own name of the thread


def this_thread() -> str:
    """Its name in the operating system."""
    return Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text().strip()


@pytest.fixture
def cancelling_threads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The thread of each call of ``ray.cancel`` so far."""
    threads: list[str] = []
    of_ray = ray.cancel

    def noted(*args: Any, **kwargs: Any) -> None:
        threads.append(this_thread())
        of_ray(*args, **kwargs)

    monkeypatch.setattr(ray, "cancel", noted)
    return threads


def await_one(threads: list[str]) -> None:
    deadline = time.monotonic() + 60
    while not threads:
        assert time.monotonic() < deadline, "nothing was cancelled"
        time.sleep(0.02)


def first_fails(number: int, folder: str) -> int:
    """Of several tasks the first fails as soon as all have begun; the others wait for a file."""
    begun = Path(folder) / f"begun {number}"
    begun.touch()
    awaited = (
        [begun.with_name(f"begun {i}") for i in range(NUM_TASKS)] if number == 0 else [begun.with_name("go")]
    )
    while not all(path.exists() for path in awaited):
        time.sleep(0.02)
    if number == 0:
        raise DataError("the first")
    return number


@usefixtures
def test_tasks_behind_one_that_failed_are_cancelled_there(
    tmp_path: Path, cancelling_threads: list[str]
) -> None:
    with pytest.raises(DataError, match="the first"):
        list(RayExecutor().each(first_fails, [(number, str(tmp_path)) for number in range(NUM_TASKS)], 2**20))
    (tmp_path / "go").touch()
    await_one(cancelling_threads)
    assert set(cancelling_threads) == {TAKES_ANSWERS}


def failing_rows(table: pa.Table, folder: str) -> pa.Table:
    first_fails(table["id"][0].as_py(), folder)
    return table


@usefixtures
def test_what_is_left_of_a_pipeline_is_cancelled_there(tmp_path: Path, cancelling_threads: list[str]) -> None:
    rows = ray.data.range(NUM_TASKS, override_num_blocks=NUM_TASKS).map_batches(
        failing_rows, batch_format="pyarrow", fn_kwargs={"folder": str(tmp_path)}
    )
    with pytest.raises(DataError, match="the first"):
        list(Staging(rows, lambda piece, table: table.num_rows, 100, prefix="p").receipts())
    (tmp_path / "go").touch()
    await_one(cancelling_threads)
    assert set(cancelling_threads) == {TAKES_ANSWERS}


@usefixtures
def test_a_task_that_runs_is_cancelled(tmp_path: Path) -> None:
    @ray.remote(num_cpus=0.1, max_retries=0)
    def wait_long() -> None:
        (tmp_path / "begun").touch()
        for _ in range(4000):  # between two sleeps it can be interrupted
            time.sleep(0.05)

    ref = wait_long.remote()
    while not (
        tmp_path / "begun"
    ).exists():  # one that is on its way to its worker may miss it, by any thread
        time.sleep(0.02)
    cancel(ref)
    with pytest.raises(ray.exceptions.TaskCancelledError):
        ray.get(ref, timeout=60)


@usefixtures
def test_what_is_no_task_is_left_alone() -> None:
    cancel(ray.put(1))
    assert ray.get(ray.remote(num_cpus=0.1)(lambda: 2).remote(), timeout=60) == 2


def test_without_a_ray_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    asked: list[Any] = []
    monkeypatch.setattr(ray, "cancel", asked.append)
    monkeypatch.setattr(ray, "put", lambda _: pytest.fail("it would start one"))
    cancel("a task")
    assert asked == ["a task"]


AS_THEY_END = """
import itertools, sys, time
import ray
from pix2score.cluster.ray_patches.cancelling import cancel
from pix2score.cluster.session import session

@ray.remote(num_cpus=1, max_retries=0)
def nothing():
    yield 1

with session():
    end, cancelled = time.monotonic() + float(sys.argv[1]), 0
    for round in itertools.count(1):
        tasks = [nothing.remote() for _ in range(12)]
        refs = [task._generator_ref for task in tasks]
        ray.wait(refs, num_returns=1)
        for task in tasks[1:]:
            cancel(task)
        for ref in refs:
            try:
                ray.get(ref, timeout=60)
            except ray.exceptions.TaskCancelledError:
                cancelled += 1
        if time.monotonic() > end:
            break
print(round, cancelled)
"""


@pytest.mark.slow
@pytest.mark.starts_ray
def test_tasks_that_are_cancelled_as_they_end_do_not_end_this_process() -> None:
    command = [sys.executable, "-c", AS_THEY_END, "40"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    rounds, cancelled = map(int, ended.stdout.splitlines()[-1].split())
    assert rounds > 20
    assert cancelled > 100


WITHOUT_A_RAYLET = """
import os, signal, time
import ray
from pix2score.cluster.ray_patches.cancelling import cancel
from pix2score.cluster.session import session
from tests.support.drivers import command_line, descendants

@ray.remote
def wait_long():
    time.sleep(200)

with session():
    task = wait_long.remote()
    (raylet,) = [pid for pid in descendants(os.getpid()) if "/raylet/raylet " in command_line(pid)]
    os.kill(raylet, signal.SIGKILL)
    while "/raylet/raylet " in command_line(raylet):
        time.sleep(0.05)
    cancel(task)
    print("goes on", flush=True)
"""


@pytest.mark.slow
@pytest.mark.starts_ray
def test_cancelling_on_a_node_that_died_does_not_end_this_process() -> None:
    command = [sys.executable, "-c", WITHOUT_A_RAYLET]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "goes on" in ended.stdout, (ended.returncode, ended.stderr[-3000:])
