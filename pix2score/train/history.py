"""What a training run records of each epoch, and how epochs are ranked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from pix2score.metrics.formulas import Numbers
from pix2score.metrics.kinds import lower_is_better

if TYPE_CHECKING:
    from torch import Tensor  # takes seconds, and --help needs none

WORST = 1e9
"""Stands for a number that is not finite: JSON has no infinity, and no checkpoint ranks below it."""


class EpochEntry(TypedDict):
    """One line of history.jsonl, in checkpoints too: plain values.

    Keys that older versions did not write are not required.
    """

    epoch: int
    """From 1."""
    steps: int
    """Since the start of the run."""
    loss: float | None
    """Mean over the epoch's good steps; None without any."""
    loss_by_head: dict[str, float]
    skipped_steps: int
    val_loss: float
    val: dict[str, Numbers]
    """Head -> numbers on the validation split, calibrated."""
    val_ece_uncalibrated: NotRequired[dict[str, float | None]]
    ridge_spearman: NotRequired[dict[str, float | None]]
    temperatures: dict[str, float]
    """Of the heads that a temperature calibrates."""
    calibrations: NotRequired[dict[str, dict[str, Any]]]
    """Of the others."""
    weights: NotRequired[str]
    """averaged or last: those that validated better; all else in this line is of them."""
    learning_rate: float
    """Of the last step; where outputs are solved it has no meaning."""
    augment: NotRequired[dict[str, float]]
    """What was done to training pictures, once it was found what the data set bears."""
    penalties: NotRequired[dict[str, float]]
    """Head -> strength of the penalty at which its outputs were solved, where they are."""
    workers: NotRequired[int]
    images_per_s: NotRequired[float]
    seconds: float
    waited_s: NotRequired[float]
    """Of the seconds, those in which the first worker had no batch."""
    peak_memory_mib: NotRequired[float]
    """Of the worker that took most: by torch on its GPU in this epoch; without one by its process so far."""


class BestModel(TypedDict):
    """The best model so far: ``value`` by which it was ranked (lower is better), its entry, its weights."""

    value: float
    entry: EpochEntry
    weights: dict[str, Tensor]


def rank_value(entry: EpochEntry, best_by: str) -> float:
    """A number by which epochs are ranked, lower is better; ``WORST`` if it is missing.

    ``best_by``: ``val_loss``, or ``<head>.<metric>``.
    """
    if best_by == "val_loss":
        return float(entry["val_loss"])
    head, _, metric = best_by.partition(".")
    value = entry["val"][head].get(metric)
    if value is None or not math.isfinite(value):
        return WORST
    return float(value) if lower_is_better(metric) else -float(value)
