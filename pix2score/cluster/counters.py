"""Counters of a running job as Ray metrics, exported to Prometheus beside Ray's own (``ray_pix2score_…``).

For dashboards and alerts only: what a run did is counted exactly in its summary. A task that Ray runs twice
counts twice here.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from typing import Any

from pix2score.cluster.ray_patches.services import metric_counter


@functools.cache
def _counter(name: str, description: str, tag: str = "") -> Any:
    return metric_counter(f"pix2score_{name}", description, (tag,) if tag else ())


def count_images(outcomes: Iterable[str]) -> None:
    """Count images that were fetched and decoded: ``ok`` or an error code each."""
    counter = _counter(
        "images_total", "Images fetched and decoded, by outcome (ok or an error code)", "outcome"
    )
    for outcome, number in Counter(outcomes).items() if counter else ():
        counter.inc(number, tags={"outcome": outcome})


def count_forward(num_images: int, seconds: float) -> None:
    """Count images that went through the model, and the seconds: their ratio is the model's own rate."""
    images = _counter("forward_images_total", "Images that went through the model")
    if num_images and images:
        images.inc(num_images)
        _counter("forward_seconds_total", "Seconds spent in the model").inc(seconds)
