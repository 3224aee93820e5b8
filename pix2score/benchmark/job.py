"""benchmark: how fast a stage is on this machine, beside its limit and its peers: a table, and JSON."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.benchmark.config import LIMIT, BenchmarkConfig
from pix2score.benchmark.decode import Pixels, decode_table, time_decode
from pix2score.benchmark.fetch import fetch_table, time_fetch
from pix2score.benchmark.heads import time_heads
from pix2score.benchmark.listing import list_table, time_listing
from pix2score.benchmark.machine import instructions, machine
from pix2score.benchmark.nights import time_nights
from pix2score.benchmark.pictures import write_photographs
from pix2score.benchmark.plan import plan_line, time_plan
from pix2score.benchmark.score import score_table, time_score
from pix2score.benchmark.start import time_start
from pix2score.cli.packages import need
from pix2score.cli.tables import aligned
from pix2score.host.cores import num_cores
from pix2score.model.predictor import load_predictor
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)


def benchmark(config: BenchmarkConfig) -> dict[str, Any]:
    """Measure the stage, or all of them; return the timings with facts about the machine, and log a table."""
    stages = tuple(_STAGES) if config.stage == "all" else (config.stage,)
    if config.stage == "all":
        logger.info(
            "every stage, one after the other: half an hour at least, and meant for a machine that does "
            "nothing else"
        )
    result: dict[str, Any] = {"job": "benchmark", "stage": config.stage, "machine": machine()}
    for stage in stages:
        result |= _STAGES[stage](config)
    if config.out:
        Folder(config.out).publish("benchmark.json", json.dumps(result, indent=1).encode(), replace=True)
    return result


def _plan(config: BenchmarkConfig) -> dict[str, Any]:
    if config.workers:
        return _nights(config)
    timings = []
    for rows in config.rows or (1_000_000, 3_000_000, 10_000_000):
        with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
            timings.append(time_plan(Path(folder), rows))
            logger.info("%s", plan_line(timings[-1]))
    return {"plan": [asdict(timing) for timing in timings]}


def _nights(config: BenchmarkConfig) -> dict[str, Any]:
    sizes = config.rows or (10_000_000,)
    with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
        steps = time_nights(Path(config.place or folder), sizes, config.workers)
    steps = [step for step in steps if step.rows in sizes]
    logger.info("%s", "\n".join(["", *(step.line() for step in steps)]))
    return {"nights": [asdict(step) for step in steps]}


def _decode(config: BenchmarkConfig) -> dict[str, Any]:
    size, probs = config.input_size, None
    if config.model:
        predictor = load_predictor(config.model, batch_size=16, device="cpu", num_threads=None)
        size = predictor.card.preprocess.size

        def probs(pixels: Pixels) -> npt.NDArray[np.float32]:
            return np.concatenate([head.probs for head in predictor.predict(pixels).heads.values()], axis=1)

    timings = time_decode(config.num_images, config.runs, size, probs)
    logger.info("decode and resize to %d px on one core:\n%s", size, decode_table(timings))
    return {"decode": [asdict(timing) for timing in timings]}


def _model(config: BenchmarkConfig) -> dict[str, Any]:
    from pix2score.benchmark.forward import time_model  # imports torch

    timings = time_model(config.backbone, config.input_size, config.batch_size, config.runs)
    rows = [
        [t.way, f"{t.images_per_s:.1f}", f"({t.slowest:.1f} to {t.fastest:.1f})", f"{t.cpu_ms:.1f}"]
        + [f"{t.times:.2f}x"]
        for t in timings
    ]
    logger.info(
        "%s at %d px, batches of %d; CPU: %s\n%s",
        config.backbone,
        config.input_size,
        config.batch_size,
        ", ".join(instructions()) or "neither VNNI nor AMX nor bfloat16",
        aligned([["", "images/s", "(spread)", "CPU ms", "times"], *rows]),
    )
    return {"model": [asdict(timing) for timing in timings]}


def _score(config: BenchmarkConfig) -> dict[str, Any]:
    from pix2score.benchmark.forward import random_model  # imports torch

    peers = [peer for peer in config.named_peers() if peer != LIMIT]
    with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
        place = Path(folder)
        random_model(config.backbone, config.input_size, str(place / "model"))
        images = Path(config.images) if config.images else place / "drawn"
        if not config.images:
            write_photographs(images, config.num_images, config.side, config.side * 3 // 4)
        limits: list[dict[str, float]] = []  # one for each turn: a shared machine is not always as fast
        measure = (
            (lambda: limits.append(_limit(config, images)))
            if LIMIT in config.named_peers()
            else (lambda: None)
        )
        timings = time_score(place, images, str(place / "model"), peers, config.runs, measure)
    limit = {
        name: round(float(np.median([limit[name] for limit in limits])), 1)
        for name in (limits[0] if limits else ())
    }
    logger.info(
        "%s at %d px, from command to exit:\n%s",
        config.backbone,
        config.input_size,
        score_table(timings, limit),
    )
    return {"score": [asdict(timing) for timing in timings], **({"limit": limit} if limit else {})}


def _start(config: BenchmarkConfig) -> dict[str, Any]:
    from pix2score.benchmark.forward import random_model  # imports torch

    with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
        place = Path(folder)
        random_model(config.backbone, config.input_size, str(place / "model"))
        timing = time_start(place, str(place / "model"), config.runs)
    causes = ", ".join(f"{name} {seconds:.2f}" for name, seconds in timing.causes_s.items())
    logger.info(
        "one image: %.1f s (%.1f to %.1f): %s", timing.seconds, timing.fastest_s, timing.slowest_s, causes
    )
    return {"start": asdict(timing)}


def _train(config: BenchmarkConfig) -> dict[str, Any]:
    from pix2score.benchmark.train import time_train  # imports torch

    network: dict[str, Any] = {
        "backbone": config.backbone,
        "size": config.input_size,
        "batch_size": config.batch_size,
    }
    with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
        timing = time_train(
            Path(folder), num_images=config.num_images, side=config.side, runs=config.runs, **network
        )
    logger.info(
        "training %s at %d px: %.1f images/s, %.0f%% of %.1f on a ready batch; reading alone, all cores: "
        "shards %.0f images/s, originals "
        "of %d px %.0f, %.1f "
        "times", config.backbone, config.input_size, timing.job_per_s, 100 * timing.share, timing.ready_per_s,
        timing.shards_per_s, config.side, timing.originals_per_s, timing.reading_speedup,
    )  # fmt: skip
    return {"train": asdict(timing)}


def _limit(config: BenchmarkConfig, images: Path) -> dict[str, float]:
    """Images/s of the fastest bare forward pass, of the decoder on all cores, and of both together."""
    from pix2score.benchmark.decode import decode_rate
    from pix2score.benchmark.forward import time_model

    forward = max(
        t.images_per_s
        for t in time_model(config.backbone, config.input_size, config.batch_size, 5, narrow=False)
    )
    decode = decode_rate(images, config.input_size) * num_cores()
    return {
        "forward_per_s": forward,
        "decode_per_s": round(decode, 1),
        "both_per_s": round(1 / (1 / forward + 1 / decode), 1),
    }


def _heads(config: BenchmarkConfig) -> dict[str, Any]:
    timings = []
    for rows in config.rows or (1_000_000,):
        with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
            found = time_heads(
                Path(folder), rows, config.backbone, config.input_size, min(config.num_images, 256)
            )
        timings.append(found)
        logger.info(
            "%d rows from embeddings of %d numbers: %.0f s from command to exit (%s), %.0f rows/s while "
            "heads answered; %s at %d px from %d pictures: %.1f images/s, %.0f times slower",
            rows, found.embedding_dim, found.seconds,
            ", ".join(f"{name} {seconds:.1f}" for name, seconds in found.stages_s.items()), found.rows_per_s,
            config.backbone, config.input_size, found.images, found.images_per_s, found.ratio,
        )  # fmt: skip
    return {"heads": [asdict(timing) for timing in timings]}


def _fetch(config: BenchmarkConfig) -> dict[str, Any]:
    timings = time_fetch(config.runs)
    logger.info("objects of S3 read whole, from a server on this machine:\n%s", fetch_table(timings))
    return {"fetch": [asdict(timing) for timing in timings]}


def _list(config: BenchmarkConfig) -> dict[str, Any]:
    timings = [timing for objects in config.rows or (1_000_000,) for timing in time_listing(objects)]
    logger.info("a bucket listed, from a server on this machine:\n%s", list_table(timings))
    return {"list": [asdict(timing) for timing in timings]}


def _index(config: BenchmarkConfig) -> dict[str, Any]:
    need("--stage index", "index", ("faiss",))
    from pix2score.benchmark.index import time_index

    timings = []
    for rows in config.rows or (100_000,):
        with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
            found = time_index(Path(folder), rows, config.dim)
        timings.append(found)
        logger.info(
            "%d embeddings of %d: built in %.0f s (%.0f s CPU, %d MiB), %d MiB of disk; loaded in %.1f s "
            "with %d MiB; recall@10 %.4f, %.1f ms a question (95th %.1f; %.1f ms CPU); exact pass %.0f s "
            "CPU; 1 %% of the rows changed: %.0f s (%.0f s CPU, %d MiB), %d MiB new",
            rows, config.dim, found.build.seconds, found.build.cpu_s, found.build.peak_mib, found.disk_mib,
            found.load_s, found.load_peak_mib, found.recall, found.ms, found.p95_ms, found.cpu_ms,
            found.exact.cpu_s, found.later.seconds, found.later.cpu_s, found.later.peak_mib, found.later_mib,
        )  # fmt: skip
    return {"index": [asdict(timing) for timing in timings]}


def _serve(config: BenchmarkConfig) -> dict[str, Any]:
    from pix2score.benchmark.forward import random_model  # imports torch
    from pix2score.benchmark.serve import time_serve
    from pix2score.service.app import need_packages

    need_packages()
    with tempfile.TemporaryDirectory(prefix="pix2score-benchmark-") as folder:
        place = Path(folder)
        random_model(config.backbone, config.input_size, str(place / "model"))
        timing = time_serve(
            place / "pictures", str(place / "model"), side=config.side, seconds=config.seconds,
            runs=config.runs, minutes=config.minutes,
        )  # fmt: skip
    logger.info(
        "%s at %d px, photographs of %d px: bare predictor calls %.1f pictures/s (batches of %d, %.1f ms CPU "
        "a picture); served %.1f in requests of one (%.0f%%; %.1f ms CPU, the client %.1f more), %.1f in "
        "requests of eight; at %.1f a second: %.0f ms, 99th %.0f ms",
        config.backbone, config.input_size, config.side, timing.bare_per_s, timing.bare_batch,
        timing.bare_cpu_ms, timing.one_per_s, 100 * timing.share, timing.served_cpu_ms, timing.client_cpu_ms,
        timing.eight_per_s, timing.half_per_s, timing.p50_ms, timing.p99_ms,
    )  # fmt: skip
    for part in timing.soak:
        logger.info("with hostile pictures: %s", json.dumps(part))
    return {"serve": asdict(timing)}


_STAGES: dict[str, Callable[[BenchmarkConfig], dict[str, Any]]] = {
    "decode": _decode,
    "model": _model,
    "start": _start,
    "score": _score,
    "train": _train,
    "plan": _plan,
    "heads": _heads,
    "fetch": _fetch,
    "index": _index,
    "list": _list,
    "serve": _serve,
}
