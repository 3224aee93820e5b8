"""start: what a run of one image costs, from command to exit, by cause."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pix2score.benchmark.pictures import write_photographs
from pix2score.benchmark.score import OURS, command, linked, output


@dataclass(frozen=True, slots=True)
class StartTiming:
    """Seconds of a run of one image from command to exit: median, fastest and slowest run, and by cause."""

    seconds: float
    fastest_s: float
    slowest_s: float
    causes_s: dict[str, float]
    """Medians: importing, the parts of the run as its summary has them, and ending."""


def time_start(place: Path, model: str, runs: int) -> StartTiming:
    """Score a new picture ``runs`` times, each into a new folder; return what it took.

    ``place`` is an empty folder.
    """
    write_photographs(place / "one", 1, 500, 375)
    folder = linked(place / "images-1", sorted((place / "one").iterdir()))
    whole, causes = [], []
    for _ in range(runs):
        shutil.rmtree(place / "out", ignore_errors=True)
        began_at, start = time.time(), time.perf_counter()
        summary = json.loads(output(command(OURS, folder, model, place / "out")).splitlines()[-1])
        whole.append(time.perf_counter() - start)
        parts = {"import": summary["began_at"] - began_at, **summary["stages_s"]}
        causes.append({**parts, "end": whole[-1] - sum(parts.values())})
    medians = {name: round(float(np.median([cause[name] for cause in causes])), 2) for name in causes[0]}
    return StartTiming(round(float(np.median(whole)), 2), round(min(whole), 2), round(max(whole), 2), medians)
