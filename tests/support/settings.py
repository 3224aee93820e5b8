"""Settings of training workers, for tests that run a part of one."""

from __future__ import annotations

from typing import Any

from pix2score.train.settings import WorkerSettings
from pix2score.train.step.recipe import Recipe
from tests.support.torch_helpers import HEADS, NARROW, PREPROCESS


def worker_settings(**changed: Any) -> WorkerSettings:
    """Those of a small training in one process, but for what is ``changed``."""
    settings: dict[str, Any] = {
        "backbone": NARROW,
        "heads": HEADS,
        "preprocess": PREPROCESS,
        "recipe": Recipe(),
        "num_workers": 0,
        "max_workers": 0,
        "use_gpu": False,
        "cpus_per_worker": None,
        "shuffle_mib": 1,
        "cache_mib": None,
        "batch_size": 4,
        "steps_per_epoch": 2,
        "seed": 0,
        "out": "",
        "initial_trunk": None,
        "num_threads": None,
    }
    return WorkerSettings(**settings | changed)
