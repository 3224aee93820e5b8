"""benchmark: how fast a stage is on this machine, beside its limit and its peers: a table, and JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from pix2score.benchmark.config import BenchmarkConfig
from pix2score.benchmark.image_stages import (
    decode_stage,
    heads_stage,
    model_stage,
    score_stage,
    serve_stage,
    start_stage,
    train_stage,
)
from pix2score.benchmark.machine import machine
from pix2score.benchmark.row_stages import fetch_stage, index_stage, list_stage, plan_stage
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


_STAGES: dict[str, Callable[[BenchmarkConfig], dict[str, Any]]] = {
    "decode": decode_stage,
    "model": model_stage,
    "start": start_stage,
    "score": score_stage,
    "train": train_stage,
    "plan": plan_stage,
    "heads": heads_stage,
    "fetch": fetch_stage,
    "index": index_stage,
    "list": list_stage,
    "serve": serve_stage,
}
