"""What a replica counts, as Prometheus reads it.

``jobs/monitoring`` has those of jobs; these are on the service's own /metrics, of all its replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Numbers:
    """Counters of one replica, labelled with its name."""

    def __init__(self, replica: str) -> None:
        self._registry = registry = CollectorRegistry()
        labels: dict[str, Any] = {"registry": registry, "namespace": "pix2score_service"}
        self._replica = replica
        self._requests = Counter(
            "requests", "Requests by route and HTTP status", ("route", "status", "replica"), **labels
        )
        self._seconds = Histogram(
            "request_seconds", "From a request's first byte to its answer", ("route", "replica"),
            buckets=SECONDS, **labels,
        )  # fmt: skip
        self._pictures = Counter(
            "pictures", "Pictures by outcome: ok or an error code", ("outcome", "replica"), **labels
        )
        self._queue = Gauge("queue", "Pictures being worked on, waiting ones too", ("replica",), **labels)
        self._batches = Histogram(
            "batch_pictures", "Pictures in a forward pass", ("replica",), buckets=BATCHES, **labels
        )
        self._model = Gauge("model", "1 for the model that answers", ("model_version", "replica"), **labels)
        self.show_queue(0)

    def count_request(self, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(route, str(status), self._replica).inc()
        self._seconds.labels(route, self._replica).observe(seconds)

    def count_picture(self, outcome: str) -> None:
        """``ok`` or an error code."""
        self._pictures.labels(outcome, self._replica).inc()

    def count_batch(self, num_pictures: int) -> None:
        """A forward pass began."""
        self._batches.labels(self._replica).observe(num_pictures)

    def show_queue(self, num_pictures: int) -> None:
        """So many are being worked on."""
        self._queue.labels(self._replica).set(num_pictures)

    def show_model(self, version: str) -> None:
        """This is the model."""
        self._model.labels(version, self._replica).set(1)

    def text(self) -> str:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry).decode()


def joined(texts: Sequence[str]) -> str:
    """What several replicas say as one page: each metric's samples together, its HELP and TYPE once."""
    about: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for text in texts:
        metric, is_new = "", False
        for line in text.splitlines():
            if line.startswith("# HELP "):
                metric = line.split(" ", 3)[2]
                is_new = metric not in about
                about.setdefault(metric, [])
            if not line.startswith("# "):
                samples.setdefault(metric, []).append(line)
            elif is_new:
                about[metric].append(line)
    lines = [line for metric in about for line in (*about[metric], *samples.get(metric, ()))]
    return "\n".join([*lines, ""])
