"""score: scoring a folder from command to exit, beside what users would otherwise run.

Every contender does the same work, in turns. Each is run on a quarter of the images and on all of them: the
difference gives its steady rate, what is left its start-up.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.cli.main import module_of
from pix2score.cli.packages import missing
from pix2score.cli.tables import aligned
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
    """One contender: seconds from command to exit, median, fastest and slowest run; rates in images/s."""

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
    left_out = [peer for peer in peers if missing([PEERS[peer][1]])]
    for peer in left_out:
        logger.warning("%s is left out: it needs the package %s", peer, PEERS[peer][1])
    return [peer for peer in peers if peer not in left_out]


def time_score(
    place: Path,
    images: Path,
    model: str,
    peers: Sequence[str],
    runs: int,
    every_turn: Callable[[], None] = lambda: None,
) -> list[ScoreTiming]:
    """Run every contender ``runs`` times on all images and on a quarter of them; return their timings.

    ``place`` is an empty folder; ``every_turn`` is called before each turn of all contenders.
    """
    files = sorted(path for path in images.iterdir() if path.is_file())
    folders = {
        len(part): linked(place / f"images-{len(part)}", part) for part in (files, files[: len(files) // 4])
    }
    contenders = [OURS, *present(peers)]
    seconds: dict[tuple[str, int], list[float]] = {(name, num): [] for name in contenders for num in folders}
    for run in range(runs):
        every_turn()
        for (name, num), measured in seconds.items():
            out = place / "out"
            measured.append(_seconds(command(name, folders[num], model, out), out))
            logger.info("run %d of %d: %s, %d images: %.1f s", run + 1, runs, name, num, measured[-1])
    return [_timing(name, {num: seconds[name, num] for num in folders}) for name in contenders]


def command(contender: str, images: Path, model: str, out: Path) -> list[str]:
    """What is typed."""
    if contender == OURS:
        catalog = str(images.parent / f"{images.name}.parquet")
        root = str(next(images.iterdir()).resolve().parent)
        flags = {"--catalog": catalog, "--image-root": root, "--model": model, "--out": str(out)}
        return [sys.executable, "-m", module_of("score"), *(word for flag in flags.items() for word in flag)]
    module = f"pix2score.benchmark.peers.{PEERS[contender][0]}"
    return [sys.executable, "-m", module, str(images), model, str(out)]


def linked(folder: Path, files: Sequence[Path]) -> Path:
    """Make a folder of links to these files, and a catalog of it beside it; return the folder."""
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
    output(words)
    return time.perf_counter() - start


def output(words: Sequence[str]) -> str:
    """Run a command; return its standard output. Raises ``StorageError`` with its error if it fails."""
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


def score_table(timings: Sequence[ScoreTiming], limit: dict[str, float]) -> str:
    """One line per contender: how many times as fast ours is, and what its own start and rate are."""
    ours = next(timing for timing in timings if timing.contender == OURS)
    head = ["", "seconds", "(spread)", "images/s", "ours is", "start s", "steady/s", "of limit"]
    rows = [
        [
            t.contender,
            f"{t.seconds:.1f}",
            f"({t.fastest_s:.1f}-{t.slowest_s:.1f})",
            f"{t.whole_per_s:.1f}",
            f"{t.seconds / ours.seconds:.2f}x",
            f"{t.startup_s:.1f}",
            f"{t.steady_per_s:.1f}",
            f"{t.steady_per_s / limit['both_per_s']:.0%}" if limit else "-",
        ]
        for t in timings
    ]
    note = (
        "\nlimit: forward {forward_per_s} images/s, decode {decode_per_s}, both on the same cores "
        "{both_per_s}"
    )
    return aligned([head, *rows]) + (note.format(**limit) if limit else "")
