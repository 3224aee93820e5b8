"""Stages through which images go: each measured as the config says, told in the log, and as plain values."""

from __future__ import annotations

import json
import logging
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.benchmark.config import LIMIT, BenchmarkConfig
from pix2score.benchmark.decode import Pixels, decode_table, time_decode
from pix2score.benchmark.heads import time_heads
from pix2score.benchmark.machine import instructions
from pix2score.benchmark.pictures import write_photographs
from pix2score.benchmark.score import score_table, time_score
from pix2score.benchmark.start import time_start
from pix2score.cli.tables import aligned
from pix2score.host.cores import num_cores
from pix2score.model.predictor import load_predictor

logger = logging.getLogger(__name__)


def decode_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """Decoding and resizing on one core, beside Pillow; with a model also how far its answers move."""
    size, probs = config.input_size, None
    if config.model:
        predictor = load_predictor(config.model, batch_size=16, device="cpu", num_threads=None)
        size = predictor.card.preprocess.size

        def probs(pixels: Pixels) -> npt.NDArray[np.float32]:
            return np.concatenate([head.probs for head in predictor.predict(pixels).heads.values()], axis=1)

    timings = time_decode(config.num_images, config.runs, size, probs)
    logger.info("decode and resize to %d px on one core:\n%s", size, decode_table(timings))
    return {"decode": [asdict(timing) for timing in timings]}


def model_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """The bare forward pass, in every way that there is here."""
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


def score_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """The whole job from command to exit beside its peers, and the limit of forward pass and decoder."""
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


def start_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """What scoring one image costs, by cause."""
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


def train_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """Epochs of a training beside the same step on a ready batch; shards beside original files."""
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


def heads_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """A night answered from stored embeddings, beside one from pictures."""
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


def serve_stage(config: BenchmarkConfig) -> dict[str, Any]:
    """The HTTP service beside bare calls of the predictor, and under load."""
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
