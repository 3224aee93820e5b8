"""Jobs as functions in a process that is somebody else's: ``python -m tests.support.from_python CASE PLACE``.

Prints what it saw as a line of JSON. ``PLACE`` holds a catalog (``catalog.parquet``) and a model (``model``).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

import pix2score


def night(place: Path, out: str, **settings: Any) -> pix2score.ScoreSummary:
    config = pix2score.ScoreConfig(
        catalog=str(place / "catalog.parquet"), model=str(place / "model"), out=str(place / out), **settings
    )
    return pix2score.score(config)


def state() -> dict[str, Any]:
    """What a process notices of its guests."""
    context = ray.data.DataContext.get_current()
    return {
        "handlers": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)],
        "logging": [str(logging.getLogger(name).handlers) for name in ("", "pix2score")],
        "levels": [logging.getLogger(name).level for name in ("", "pix2score", "ray.data")],
        "warnings": [str(filter_) for filter_ in warnings.filters if "concurrent tasks" in str(filter_)],
        "environment": sorted(os.environ.items()),
        "data": [
            context.enable_progress_bars,
            context.print_on_execution_start,
            context.raise_original_map_exception,
        ],
        "threads": [thread.name for thread in threading.enumerate() if not thread.daemon],
        "ray": ray.is_initialized(),
    }


def changes(before: dict[str, Any]) -> dict[str, Any]:
    return {name: (before[name], value) for name, value in state().items() if before[name] != value}


def in_threads(place: Path) -> dict[str, Any]:
    """Two nights side by side, each in a thread, and a dry run that begins before them and ends first."""
    before = state()
    with ThreadPoolExecutor(3) as threads:
        dry = threads.submit(night, place, "three", dry_run=True)
        nights = list(threads.map(lambda out: night(place, out), ("one", "two")))
        to_score = dry.result()["to_score"]
    return {"scored": [n["scored"] for n in nights], "to_score": to_score, "changes": changes(before)}


def in_a_loop(place: Path) -> dict[str, Any]:
    """As a cell of a notebook runs, in a loop that runs in the main thread; then in a thread beside it."""
    before = state()

    async def cells() -> list[Any]:
        first = night(place, "scores")
        second = await asyncio.to_thread(night, place, "scores")
        return [first["scored"], second["carried"], first["snapshot"], second["snapshot"]]

    return {"found": asyncio.run(cells()), "changes": changes(before)}


def after_an_error(place: Path) -> dict[str, Any]:
    """Ray has started when the run finds out that it cannot go on."""

    def handler(*_: object) -> None:
        pass

    signal.signal(signal.SIGTERM, handler)  # the process's own, as a scheduler sets one
    before = state()
    try:
        night(place, "scores", device="gpu")
    except pix2score.ConfigError as error:
        text = str(error)
    return {"error": text, "changes": changes(before)}


def on_a_ray_of_its_own(place: Path) -> dict[str, Any]:
    """The process has connected to Ray before."""
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    before = state()
    done = night(place, "scores")
    changed = changes(before)
    told = ray.get(ray.remote(lambda: "at work").remote())
    return {"scored": done["scored"], "changes": changed, "ray": told}


CASES: dict[str, Callable[[Path], dict[str, Any]]] = {
    case.__name__: case for case in (in_threads, in_a_loop, after_an_error, on_a_ray_of_its_own)
}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]](Path(sys.argv[2]))))
