"""All that a comparison found, run by run: what compare.json holds and the table and page show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pix2score.compare.config import REFERENCES
from pix2score.compare.cost import Cost, mean_cost, read_history
from pix2score.compare.measuring import Measured
from pix2score.compare.numbers import HeadResult, head_results


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One recipe with all its seeds, as it ended."""

    name: str
    backbone: str
    models: Mapping[int, Measured]
    """By seed, those that were trained and measured."""
    places: Mapping[int, str]
    """Their folders."""
    failures: Mapping[int, str]
    """By seed, why there is no model."""

    @property
    def cost(self) -> Cost | None:
        """On average over seeds; None without a model."""
        records = [model.record["cost"] for model in self.models.values()]
        return mean_cost(records) if records else None

    def histories(self) -> dict[int, list[dict[str, Any]]]:
        """By seed, an entry for each epoch."""
        return {seed: read_history(place) for seed, place in self.places.items()}

    def to_dict(self) -> dict[str, Any]:
        """As compare.json holds it, without the heads."""
        cost = self.cost
        return {
            "name": self.name,
            "backbone": self.backbone,
            "seeds": list(self.models),
            "failures": {str(seed): why for seed, why in self.failures.items()},
            "cost": cost.to_dict() if cost else None,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparedRuns:
    """Runs, the first of which the others are compared with, and their results by head."""

    runs: Sequence[Run]
    heads: Mapping[str, Mapping[str, HeadResult]]
    """Head -> run, or reference -> result; of runs that have a model."""

    def references(self) -> list[str]:
        """Names in ``heads`` that are no run's."""
        return [name for name in REFERENCES if any(name in of for of in self.heads.values())]

    def to_dict(self) -> dict[str, Any]:
        """As compare.json and summary.json hold it."""
        return {
            "runs": [{**run.to_dict(), "heads": self._of(run.name)} for run in self.runs],
            "references": {name: self._of(name) for name in self.references()},
        }

    def _of(self, name: str) -> dict[str, Any]:
        return {head: of[name].to_dict() for head, of in self.heads.items() if name in of}


def compared_runs(runs: Sequence[Run], heads: Sequence[str]) -> ComparedRuns:
    """The runs in all ``heads``; nothing by head where no run has a model."""
    models = {run.name: list(run.models.values()) for run in runs}
    has_any = any(models.values())
    found = {head: head_results(head, models, runs[0].name) for head in heads} if has_any else {}
    return ComparedRuns(runs=runs, heads=found)
