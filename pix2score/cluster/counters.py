"""Counters of a running job as Ray metrics, which Ray exports to Prometheus beside its own (as
``ray_pix2score_…``).

For dashboards and alerts only: what a run did is counted exactly in its summary. A task that Ray runs twice
counts twice here.
"""

from __future__ import annotations

import functools
from collections import Counter as Tally
from collections.abc import Iterable

from ray.util.metrics import Counter


@functools.cache
def _counter(name: str, description: str, tag: str = "") -> Counter:
    return Counter(f"pix2score_{name}", description=description, tag_keys=(tag,) if tag else ())


def count_images(outcomes: Iterable[str]) -> None:
    """Images that were fetched and decoded: ``ok`` or an error code each."""
    counter = _counter(
        "images_total", "Images fetched and decoded, by outcome (ok or an error code)", "outcome"
    )
    for outcome, number in Tally(outcomes).items():
        counter.inc(number, tags={"outcome": outcome})


def count_forward(num_images: int, seconds: float) -> None:
    """Images that went through the model, and the seconds it took: their ratio is the model's own rate."""
    if num_images:
        _counter("forward_images_total", "Images that went through the model").inc(num_images)
        _counter("forward_seconds_total", "Seconds spent in the model").inc(seconds)
