"""What was measured of whole nights, step by step: kept in ``steps.jsonl`` as soon as it is known."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pix2score.benchmark.processes import looking, memory_of, this_and_below
from pix2score.snapshots.snapshot import Snapshot
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
Way = Literal["one task", "ranges"]


@dataclass(frozen=True, slots=True)
class NightStep:
    """One step: wall and CPU seconds; most memory of a task and of the driver; bytes that it wrote."""

    rows: int
    way: Way
    workers: int
    step: str
    seconds: float
    cpu_s: float
    task_peak_mib: int
    driver_peak_mib: int
    table_mib: int = 0
    """Of a publication: the files of the scores table, of the dead and of removed rows that it wrote."""

    def line(self) -> str:
        """For people."""
        return (
            f"{self.rows / 1e6:>6g} M  {self.way:<8} {self.workers} cores  {self.step:<14}"
            f"{self.seconds:>8.1f} s {self.cpu_s:>8.1f} s CPU {self.task_peak_mib:>6} MiB a task "
            f"{self.driver_peak_mib:>5} MiB driver"
            + (f" {self.table_mib:>7} MiB of table" if self.table_mib else "")
        )


def read_steps(place: Path) -> list[NightStep]:
    """What was measured in ``place``: of steps that were measured again, the last."""
    path = place / "steps.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    steps = [NightStep(**json.loads(line)) for line in lines]
    return list({(s.rows, s.way, s.workers, s.step): s for s in steps}.values())


@dataclass(frozen=True, slots=True)
class MeasuredWay:
    """How nights of ``rows`` rows are measured, and where."""

    place: Path
    rows: int
    way: Way
    workers: int

    @property
    def scores(self) -> Folder:
        """The scores folder of its nights."""
        return Folder(str(self.place / f"scores-{self.rows}"))

    def step(self, name: str, work: Callable[[], Any]) -> Any:
        """Do ``work`` and return what it does; write down and show what it took."""
        start = time.monotonic()
        with _watched() as seen:
            result = work()
            seconds = time.monotonic() - start
        step = NightStep(
            rows=self.rows,
            way=self.way,
            workers=self.workers,
            step=name,
            seconds=round(seconds, 2),
            cpu_s=round(seen.cpu_s, 2),
            task_peak_mib=seen.task_bytes // 2**20,
            driver_peak_mib=seen.driver_bytes // 2**20,
            table_mib=-(-_written(result) // 2**20) if isinstance(result, Snapshot) else 0,
        )
        logger.info("%s", step.line())
        with (self.place / "steps.jsonl").open("a") as file:
            file.write(json.dumps(asdict(step)) + "\n")
        return result


def _written(snapshot: Snapshot) -> int:
    """Bytes of the files of the table that the night wrote itself."""
    files = [file for file in snapshot.files if file.run == snapshot.manifest["run"]]
    return sum(file.bytes for file in files if file.table != "embeddings")


@dataclass(slots=True)
class _Seen:
    """CPU seconds of this process and Ray's workers; unshared memory of the largest worker and of this."""

    cpu_s: float = 0.0
    task_bytes: int = 0
    driver_bytes: int = 0


@contextmanager
def _watched() -> Iterator[_Seen]:
    """What this process and Ray's workers use: filled while the block runs, and at its end."""
    seen, seconds = _Seen(), dict[int, tuple[float, float]]()

    def look() -> None:
        for process in this_and_below():
            is_driver = process.pid == os.getpid()
            if is_driver or process.line.startswith("ray::"):
                first = seconds.get(process.pid, (process.cpu_s, 0.0))[0]
                seconds[process.pid] = first, process.cpu_s
                resident, shared = memory_of(process.pid)
                if is_driver:
                    seen.driver_bytes = max(seen.driver_bytes, resident - shared)
                else:
                    seen.task_bytes = max(seen.task_bytes, resident - shared)

    with looking(look):
        yield seen
    seen.cpu_s = sum(last - first for first, last in seconds.values())
