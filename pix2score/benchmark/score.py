"""Scoring a folder from command to exit, beside what users would otherwise run: every contender does the same
work, in turns.

Each is run on a quarter of the images and on all of them: the difference gives its steady rate, what is left
its start-up.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.benchmark.pictures import write_photographs
from pix2score.errors import StorageError

logger = logging.getLogger(__name__)
OURS = "pix2score"
PEERS = {
    "ray-recipe": ("ray_recipe", "ray"),
    "dataloader": ("dataloader", "torchvision"),
    "daft": ("daft", "daft"),
}
"""Name -> module of ``pix2score.benchmark.peers``, and the package that it needs."""
TIMEOUT_S = 3600


@dataclass(frozen=True, slots=True)
class ScoreTiming:
    """One contender: seconds from command to exit, median with the fastest and slowest run; rates in images
    per second."""

    contender: str
    images: int
    seconds: float
    fastest_s: float
    slowest_s: float
    startup_s: float
    steady_per_s: float

    @property
    def whole_per_s(self) -> float:
        """Images over the whole time."""
        return self.images / self.seconds


def present(peers: Sequence[str]) -> list[str]:
    """The peers whose packages are installed; the others are named in a log line."""
    missing = [peer for peer in peers if find_spec(PEERS[peer][1]) is None]
    for peer in missing:
        logger.warning("%s is left out: it needs the package %s", peer, PEERS[peer][1])
    return [peer for peer in peers if peer not in missing]


def time_score(
    place: Path,
    images: Path,
    model: str,
    peers: Sequence[str],
    runs: int,
    every_turn: Callable[[], None] = lambda: None,
) -> list[ScoreTiming]:
    """Every contender ``runs`` times on all images and on a quarter of them, after ``every_turn``; ``place``
    is an empty folder."""
    files = sorted(path for path in images.iterdir() if path.is_file())
    folders = {
        len(part): _linked(place / f"images-{len(part)}", part) for part in (files, files[: len(files) // 4])
    }
    contenders = [OURS, *present(peers)]
    seconds: dict[tuple[str, int], list[float]] = {(name, num): [] for name in contenders for num in folders}
    for run in range(runs):
        every_turn()
        for (name, num), taken in seconds.items():
            out = place / "out"
            taken.append(_seconds(command(name, folders[num], model, out), out))
            logger.info("run %d of %d: %s, %d images: %.1f s", run + 1, runs, name, num, taken[-1])
    return [_timing(name, {num: seconds[name, num] for num in folders}) for name in contenders]


@dataclass(frozen=True, slots=True)
class StartTiming:
    """What a run of one image costs: seconds from command to exit, median with the fastest and slowest run,
    and by cause."""

    seconds: float
    fastest_s: float
    slowest_s: float
    causes_s: dict[str, float]
    """Medians: importing, the parts of the run as its summary has them, and ending."""


def time_start(place: Path, model: str, runs: int) -> StartTiming:
    """A new picture scored ``runs`` times, each into a new folder; ``place`` is an empty folder."""
    write_photographs(place / "one", 1, 500, 375)
    folder = _linked(place / "images-1", sorted((place / "one").iterdir()))
    whole, causes = [], []
    for _ in range(runs):
        shutil.rmtree(place / "out", ignore_errors=True)
        began_at, start = time.time(), time.perf_counter()
        summary = json.loads(_output(command(OURS, folder, model, place / "out")).splitlines()[-1])
        whole.append(time.perf_counter() - start)
        parts = {"import": summary["began_at"] - began_at, **summary["stages_s"]}
        causes.append({**parts, "end": whole[-1] - sum(parts.values())})
    medians = {name: round(float(np.median([cause[name] for cause in causes])), 2) for name in causes[0]}
    return StartTiming(round(float(np.median(whole)), 2), round(min(whole), 2), round(max(whole), 2), medians)


def command(contender: str, images: Path, model: str, out: Path) -> list[str]:
    """What is typed."""
    if contender == OURS:
        catalog = str(images.parent / f"{images.name}.parquet")
        root = str(next(images.iterdir()).resolve().parent)
        words = [
            "jobs.score",
            "--catalog",
            catalog,
            "--image-root",
            root,
            "--model",
            model,
            "--out",
            str(out),
        ]
        return [sys.executable, "-m", *words]
    return [
        sys.executable,
        "-m",
        f"pix2score.benchmark.peers.{PEERS[contender][0]}",
        str(images),
        model,
        str(out),
    ]


def _linked(folder: Path, files: Sequence[Path]) -> Path:
    """A folder of these files, and beside it the catalog of it."""
    folder.mkdir()
    for file in files:
        os.symlink(file.resolve(), folder / file.name)
    uris = [str(file.resolve()) for file in files]
    pq.write_table(
        pa.table({"illust_id": range(len(files)), "uri": uris}), folder.parent / f"{folder.name}.parquet"
    )
    return folder


def _seconds(words: Sequence[str], out: Path) -> float:
    shutil.rmtree(out, ignore_errors=True)
    start = time.perf_counter()
    _output(words)
    return time.perf_counter() - start


def _output(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        raise StorageError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _timing(name: str, seconds: dict[int, list[float]]) -> ScoreTiming:
    few, many = sorted(seconds)
    few_s, many_s = (float(np.median(seconds[num])) for num in (few, many))
    steady = (many - few) / max(1e-9, many_s - few_s)
    return ScoreTiming(
        contender=name,
        images=many,
        seconds=round(many_s, 2),
        fastest_s=round(min(seconds[many]), 2),
        slowest_s=round(max(seconds[many]), 2),
        startup_s=round(many_s - many / steady, 2),
        steady_per_s=round(steady, 1),
    )
