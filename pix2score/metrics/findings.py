"""All that an evaluation found, head by head: what metrics.json holds and the report shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from pix2score.metrics.comparison import HeadComparison, is_better
from pix2score.metrics.correlation import Correlations
from pix2score.metrics.parts import ByColumn
from pix2score.metrics.perturbed import Perturbed
from pix2score.metrics.protocol import Change, Curves
from pix2score.metrics.verdict import HeadVerdict

ADVERSARIAL_REACH = 2
"""Values of 255 by which each pixel may move where it is tried to lead a head to another answer."""
ADVERSARIAL_S = 60.0
"""Of a worker, after which no batch is begun: on a CPU a gradient of a large network takes seconds."""


class Adversarial(TypedDict):
    """How many of the images tried got another answer within ``ADVERSARIAL_REACH``."""

    images: int
    changed: float
    """Share of them."""


@dataclass(frozen=True, slots=True)
class HeadDetails:
    """What only a report needs of a head."""

    curves: Curves | None
    """None without labels."""
    altered: dict[str, Change]
    """Alteration of the image -> how far the answers move."""
    adversarial: Adversarial | None = None
    """None where it was not tried."""

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json holds it."""
        tried = {"adversarial": self.adversarial} if self.adversarial else {}
        return {**(self.curves or {}), "altered": self.altered, **tried}


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """Of one model on one split; the mappings are by head."""

    model_version: str
    dataset_id: str
    split: str
    metrics: Mapping[str, HeadVerdict]
    details: Mapping[str, HeadDetails]
    compared_with: str = ""
    """Version of the other model; empty without one."""
    comparison: Mapping[str, HeadComparison] = field(default_factory=dict)
    by: tuple[ByColumn, ...] = ()
    """The same numbers by the values of columns."""
    perturbed: Perturbed | None = None
    """None where no image was altered."""
    correlations: Correlations | None = None
    """Of the heads with one another; None below two that have a score."""

    @property
    def is_better(self) -> bool:
        """Whether the model may replace the other."""
        return is_better(head.verdict for head in self.comparison.values())

    def to_dict(self) -> dict[str, Any]:
        """As metrics.json and summary.json hold it, without the details."""
        found = {"model_version": self.model_version, "dataset_id": self.dataset_id, "split": self.split}
        metrics = {name: verdict.to_dict() for name, verdict in self.metrics.items()}
        if not self.compared_with:
            return {**found, "metrics": metrics}
        comparison = {name: head.to_dict() for name, head in self.comparison.items()}
        against = {"compared_with": self.compared_with, "comparison": comparison, "is_better": self.is_better}
        return {**found, "metrics": metrics, **against}

    def more(self) -> dict[str, Any]:
        """What metrics.json holds beside that, too long for a summary."""
        by = {"by": {found.column: found.to_dict() for found in self.by}} if self.by else {}
        perturbed = {"perturbed": self.perturbed.to_dict()} if self.perturbed else {}
        going = {"correlations": self.correlations.to_dict()} if self.correlations else {}
        details = {name: head.to_dict() for name, head in self.details.items()}
        return {**by, **perturbed, **going, "details": details}
