"""Numbers of a running job as Ray metrics, exported to Prometheus beside Ray's own (``ray_pix2score_…``).

For dashboards and alerts only: what a run did is counted exactly in its summary. A task that Ray runs twice
counts twice in what workers count. ``jobs/monitoring`` has a dashboard and alerts made of these names.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pix2score.cluster.ray_patches.services import metric


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """A metric by what it is; a counter only grows while its process lives, a gauge is as last set."""

    kind: Literal["Counter", "Gauge"]
    description: str
    labels: tuple[str, ...] = ()


PREFIX = "pix2score_"
METRICS = {
    # Counted in the workers, as it happens.
    "images_total": MetricSpec(
        "Counter", "Images fetched and decoded, by outcome (ok or an error code)", ("outcome",)
    ),
    "forward_images_total": MetricSpec("Counter", "Images that went through the model"),
    "forward_seconds_total": MetricSpec("Counter", "Seconds spent in the model"),
    # Counted by the job, whenever a piece is staged.
    "fetched_bytes_total": MetricSpec("Counter", "Bytes fetched of the images in staged pieces", ("scores",)),
    "stage_seconds_total": MetricSpec(
        "Counter", "Busy seconds of a stage (fetch, decode, model, write), all its tasks", ("scores", "stage")
    ),
    # The night so far, and the live snapshot, set by the job.
    "night_images": MetricSpec(
        "Gauge", "Images that tonight's run has staged itself, by outcome", ("scores", "outcome")
    ),
    "rows_left": MetricSpec("Gauge", "Rows that tonight's run has still to score", ("scores",)),
    "rows_staged": MetricSpec("Gauge", "Rows staged and not yet published, resumed ones too", ("scores",)),
    "snapshot_number": MetricSpec("Gauge", "Number of the live snapshot", ("scores",)),
    "snapshot_rows": MetricSpec("Gauge", "Rows of the live snapshot, by status", ("scores", "status")),
    "published_time_seconds": MetricSpec(
        "Gauge", "When the live snapshot was published, Unix time", ("scores",)
    ),
    "up_to_date_time_seconds": MetricSpec(
        "Gauge", "When a run last published, or found nothing to do, Unix time", ("scores",)
    ),
    "drift": MetricSpec(
        "Gauge", "PSI of a head's answers in tonight's table against the live one", ("scores", "head")
    ),
}
"""Every metric of ours, by its name without ``ray_pix2score_``."""


@functools.cache
def _metric(name: str) -> Any:
    spec = METRICS[name]
    return metric(spec.kind, f"{PREFIX}{name}", spec.description, spec.labels)


def count(name: str, number: float, **labels: str) -> None:
    """Add ``number`` to a counter of ``METRICS``."""
    counter = _metric(name)
    if number > 0 and counter:
        counter.inc(float(number), tags=labels)


def show(name: str, value: float, **labels: str) -> None:
    """Set a gauge of ``METRICS``. Ray exports it for some 20 s from then on: queries must look back."""
    gauge = _metric(name)
    if gauge:
        gauge.set(float(value), tags=labels)


def count_images(outcomes: Iterable[str]) -> None:
    """Count images that were fetched and decoded: ``ok`` or an error code each."""
    for outcome, number in Counter(outcomes).items():
        count("images_total", number, outcome=outcome)


def count_forward(num_images: int, seconds: float) -> None:
    """Count images that went through the model, and the seconds: their ratio is the model's own rate."""
    count("forward_images_total", num_images)
    if num_images:
        count("forward_seconds_total", seconds)
