"""index: building and asking the nearest-neighbour index of made-up embeddings, beside the exact answer."""

from __future__ import annotations

import logging
import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from pix2score.benchmark.embeddings import first_night, later_night
from pix2score.neighbours.config import IndexConfig
from pix2score.neighbours.index import index
from pix2score.neighbours.similar import Neighbours
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
T = TypeVar("T")
NUM_QUESTIONS = 100
NEAREST = 10
CHANGED = 0.01
"""Of the rows, in the later night."""


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work in a process of its own: wall and CPU seconds, peak memory (RSS)."""

    seconds: float
    cpu_s: float
    peak_mib: int


@dataclass(frozen=True, slots=True)
class IndexTiming:
    """The index of ``rows`` embeddings of ``dim`` float16."""

    rows: int
    dim: int
    build: Work
    disk_mib: int
    recall: float
    """Share of the ten nearest of ``NUM_QUESTIONS`` that it finds, by the exact answer."""
    load_s: float
    load_peak_mib: int
    """Of the process that asks, with what it read of the embeddings."""
    ms: float
    """Of a question by one thread, once loaded: the median, and the 95th of 100."""
    p95_ms: float
    cpu_ms: float
    """The mean."""
    exact: Work
    """The same questions together, in one pass over every embedding."""
    later: Work
    """The index of a night in which ``CHANGED`` of the rows have another embedding."""
    later_mib: int
    """Of its files, those that are new."""


def time_index(place: Path, rows: int, dim: int) -> IndexTiming:
    """Write ``rows`` embeddings below ``place``, an empty folder; index and ask them."""
    scores = str(place / "scores")
    night = first_night(Folder(scores), rows, dim)
    logger.info("%d embeddings written", rows)
    keys = np.random.default_rng(2).permutation(rows)[:NUM_QUESTIONS].tolist()
    (wanted, _), exact = _apart(_answers, scores, keys)
    logger.info("exact: %s", exact)
    made, build = _apart(_indexed, scores)
    logger.info("index: %s, %s", build, made)
    (found, spent), asked = _apart(_answers, scores, keys)
    recall = np.mean([len(w & f) / NEAREST for w, f in zip(wanted, found, strict=True)])
    later_night(Folder(scores), night, CHANGED)
    _, later = _apart(_indexed, scores)
    new = sum(entry.size for entry in Folder(f"{scores}/index/00000002").entries())
    return IndexTiming(
        rows=rows,
        dim=dim,
        build=build,
        disk_mib=made["bytes"] // 2**20,
        recall=round(float(recall), 4),
        load_s=spent["load_s"],
        load_peak_mib=asked.peak_mib,
        ms=round(float(np.median(spent["ms"])), 2),
        p95_ms=round(float(np.quantile(spent["ms"], 0.95)), 2),
        cpu_ms=round(spent["cpu_ms"], 2),
        exact=exact,
        later=later,
        later_mib=new // 2**20,
    )


def _apart(function: Callable[..., T], *args: Any) -> tuple[T, Work]:
    """What ``function`` gives in a process of its own, and what that took."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_timed, function, *args).result()


def _timed(function: Callable[..., T], *args: Any) -> tuple[T, Work]:
    start, before = time.perf_counter(), os.times()
    found = function(*args)
    after = os.times()
    cpu_s = after.user + after.system - before.user - before.system
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10
    return found, Work(round(time.perf_counter() - start, 2), round(cpu_s, 2), peak)


def _indexed(scores: str) -> dict[str, Any]:
    return {**index(IndexConfig(scores=scores))}


def _answers(scores: str, keys: Sequence[int]) -> tuple[list[set[int]], dict[str, Any]]:
    """Nearest ids of each key; with an index milliseconds of each question too."""
    start = time.perf_counter()
    asked = Neighbours(scores)
    load_s = round(time.perf_counter() - start, 2)
    if not asked.is_indexed:
        return _sets(asked.of(list(keys), NEAREST), keys), {}
    with threadpool_limits(1):
        asked.of(list(keys), NEAREST)  # embeddings in the page cache
        spent, found, cpu = [], [], time.process_time()
        for key in keys:
            start = time.perf_counter()
            found += _sets(asked.of(key, NEAREST), [key])
            spent.append(1e3 * (time.perf_counter() - start))
        return found, {"ms": spent, "cpu_ms": 1e3 * (time.process_time() - cpu) / len(keys), "load_s": load_s}


def _sets(found: pa.Table, keys: Sequence[int]) -> list[set[int]]:
    ids, of = found.column("illust_id").to_numpy(), found.column("of_illust_id").to_numpy()
    return [set(ids[of == key].tolist()) for key in keys]
