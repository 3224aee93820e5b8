"""serve: the service under load, beside bare calls of the predictor with the same pictures on the same cores.

Requests come from another process on the same cores, as there are no others: what it takes is part of the
price, and is named.
"""

from __future__ import annotations

import io
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pix2score.benchmark.load import BAD, GOOD, Came, Offered, offer
from pix2score.benchmark.pictures import write_photographs
from pix2score.benchmark.processes import memory_of, this_and_below, tree_cpu_s
from pix2score.cluster.local import num_local_cores
from pix2score.cluster.session import session
from pix2score.serve.model import Model
from pix2score.service.config import ServeConfig
from pix2score.service.job import served

NUM_PICTURES = 48
BARE_BATCHES = (1, 8, 32)
BAD_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class ServeTiming:
    """Pictures a second of both ways, medians over runs; what requests took at half of that."""

    bare_per_s: float
    """``Model.predict`` of batches, by the fastest of ``BARE_BATCHES``."""
    bare_batch: int
    bare_cpu_ms: float
    """Of a picture, decode child and all."""
    bare_by_batch: dict[int, float]
    one_per_s: float
    """Requests of one picture, 16 at a time."""
    eight_per_s: float
    """Requests of eight pictures."""
    served_cpu_ms: float
    """Of a picture in requests of one, all processes of Ray and the children, without the client's."""
    client_cpu_ms: float
    share: float
    """``one_per_s`` of ``bare_per_s``."""
    half_per_s: float
    p50_ms: float
    p99_ms: float
    soak: list[dict[str, Any]]
    """Of each part of the time with hostile pictures among others: what came, memory, children."""


def time_serve(
    place: Path, model: str, *, side: int, seconds: float, runs: int, minutes: float = 0
) -> ServeTiming:
    """Measure both ways in turns, for ``seconds`` each; then, for ``minutes``, load with hostile pictures."""
    write_photographs(place / GOOD, NUM_PICTURES, side, side * 3 // 4)
    write_hostile(place / BAD)
    bare = [_bare(model, place, seconds) for _ in range(runs)]
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    settings: dict[str, Any] = {"url": url, "folder": str(place), "seconds": seconds}
    config = ServeConfig(model=model, port=port, explain=False)
    with session(min_slots=2 * num_local_cores() + 2) as found, served(config, found):
        offer(Offered(**settings))  # the first of everything is slower
        ones, cpu_s = [], 0.0
        for _ in range(runs):
            before = tree_cpu_s()
            ones.append(offer(Offered(**settings)))
            cpu_s += tree_cpu_s() - before - ones[-1].cpu_s
        eights = [offer(Offered(**settings, per_request=8, num_clients=4)) for _ in range(runs)]
        one_per_s = _median([came.per_s for came in ones])
        half = offer(Offered(**settings | {"seconds": 2 * seconds}, per_s=one_per_s / 2))
        soak = [*_soak(settings, minutes)]
    bare += [_bare(model, place, seconds) for _ in range(runs)]
    best = max(BARE_BATCHES, key=lambda size: _median([rates[size][0] for rates in bare]))
    bare_per_s = _median([rates[best][0] for rates in bare])
    pictures = sum(came.pictures for came in ones)
    return ServeTiming(
        bare_per_s=round(bare_per_s, 1),
        bare_batch=best,
        bare_cpu_ms=round(_median([rates[best][1] for rates in bare]), 2),
        bare_by_batch={size: round(_median([rates[size][0] for rates in bare]), 1) for size in BARE_BATCHES},
        one_per_s=round(one_per_s, 1),
        eight_per_s=round(_median([came.per_s for came in eights]), 1),
        served_cpu_ms=round(1000 * cpu_s / pictures, 2),
        client_cpu_ms=round(1000 * sum(came.cpu_s for came in ones) / pictures, 2),
        share=round(one_per_s / bare_per_s, 3),
        half_per_s=round(half.per_s, 1),
        p50_ms=half.p50_ms,
        p99_ms=half.p99_ms,
        soak=soak,
    )


def _bare(model: str, place: Path, seconds: float) -> dict[int, tuple[float, float]]:
    """Batch size -> pictures a second, and CPU milliseconds of one, of ``Model.predict``."""
    pictures = [file.read_bytes() for file in sorted((place / GOOD).iterdir())]
    found = {}
    for size in BARE_BATCHES:
        loaded = Model.load(model, batch_size=size)
        loaded.predict(pictures[:size])
        start, cpu, count = time.perf_counter(), tree_cpu_s(), 0
        while time.perf_counter() - start < seconds / len(BARE_BATCHES):
            loaded.predict([pictures[(count + i) % len(pictures)] for i in range(size)])
            count += size
        found[size] = count / (time.perf_counter() - start), 1000 * (tree_cpu_s() - cpu) / count
        loaded.close()
    return found


def _soak(settings: dict[str, Any], minutes: float) -> Iterator[dict[str, Any]]:
    """Ten parts of the time, each with what came and what there was after it."""
    for _ in range(10 if minutes else 0):
        came: Came = offer(Offered(**settings | {"seconds": 6 * minutes}, bad_share=BAD_SHARE, num_clients=8))
        yield {
            "per_s": round(came.per_s, 1),
            "good": dict(came.good),
            "bad": dict(came.bad),
            "p99_ms": came.p99_ms,
            **_footprint(),
        }


def write_hostile(folder: Path) -> None:
    """Files made to hurt: a giant within the limit, bombs, half files, noise, nothing, none."""
    folder.mkdir(parents=True)
    whole = (folder.parent / GOOD / "000000.jpg").read_bytes()
    giant = io.BytesIO()
    Image.new("RGB", (9_990, 10_000), (200, 30, 90)).save(giant, "PNG")
    over = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(over, "PNG")
    noise = np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8).tobytes()
    contents = {
        "half.jpg": whole[: len(whole) // 2],
        "noise.jpg": whole[:200] + noise,
        "over.png": over.getvalue(),
        "cut.png": giant.getvalue()[:-200],
        "page.html": b"<html></html>",
        "empty.jpg": b"",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _median(numbers: list[float]) -> float:
    return float(np.median(numbers))


def _footprint() -> dict[str, Any]:
    """Memory of replica and proxy in MiB, and how many decode children there are."""
    found: dict[str, Any] = {"decoders": 0, "decoders_mib": 0, "replica_mib": 0, "proxy_mib": 0}
    for process in this_and_below():
        line, mib = process.line, memory_of(process.pid)[0] // 2**20
        if "pix2score.images.decoder" in line:
            found["decoders"] += 1
            found["decoders_mib"] += mib
        elif line.startswith("ray::ServeReplica"):
            found["replica_mib"] += mib
        elif line.startswith("ray::ProxyActor"):
            found["proxy_mib"] += mib
    return found
