"""What an evaluation says about one head: every measure with its interval, the references beside it, the
curves of the report.

Also whether one model is better than another. Plain values only, ready for JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pix2score.heads.bins import mid_ranks
from pix2score.heads.spec import HeadSpec
from pix2score.metrics import measures as quality
from pix2score.metrics.accumulate import main_metric
from pix2score.metrics.measures import Answers, Floats, Guesses

NUM_CURVE_POINTS = 10
NUM_SCATTER = 400


def head_verdict(answers: Answers, temperature: float, ridge: Floats | None) -> dict[str, Any]:
    """Measures of one head, and under ``reliable`` whether they mean anything; of a head without labels only
    that.

    Keys: the measures of ``quality.measures``; ``interval`` (measure -> [low, high], 95 %, by group);
    ``constant`` and ``ridge`` (the same measures of the references); ``temperature`` and
    ``ece_before_temperature``.
    """
    n = len(answers.truth)
    if not n:
        return {"num_labelled": 0, "reliable": False}
    functions = quality.measures(answers)
    is_reliable = n >= quality.MIN_LABELLED
    before = quality.softened(answers.log_probs, temperature)
    correct = answers.log_probs.argmax(axis=1) == answers.truth
    sure_before = np.exp(before).max(axis=1)
    return {
        "num_labelled": n,
        "num_groups": len(np.unique(answers.group)),
        "reliable": is_reliable,
        "main": main_metric(answers.head),
        **quality.values(functions, n),
        "interval": quality.intervals(functions, quality.draws(answers.group)) if is_reliable else {},
        "constant": quality.constant_measures(answers.head, answers.truth),
        "ridge": _ridge_values(answers, ridge),
        "temperature": temperature,
        "ece_before_temperature": quality.calibration_error(sure_before, correct, np.ones(n)),
    }


def curves(answers: Answers, temperature: float) -> dict[str, Any]:
    """What a report draws of a head with labels.

    ``reliability`` (``before`` and ``after`` the temperature), ``confusion``, ``curve`` and ``scatter``.
    """
    correct = answers.log_probs.argmax(axis=1) == answers.truth
    before = np.exp(quality.softened(answers.log_probs, temperature)).max(axis=1)
    return {
        "reliability": {
            "before": quality.reliability(before, correct),
            "after": quality.reliability(answers.probs.max(axis=1), correct),
        },
        "confusion": quality.confusion(answers),
        "curve": _curve(answers),
        "scatter": _scatter(answers),
    }


def _ridge_values(answers: Answers, ridge: Floats | None) -> dict[str, float | None]:
    if ridge is None:
        return {}
    guesses = Guesses(answers.head, ridge, answers.truth, answers.label)
    return quality.values(quality.guess_measures(guesses), len(ridge))


def _curve(answers: Answers) -> list[dict[str, float]]:
    """Images in tenths by score: mean ``score``, and ``low``, ``median``, ``high`` (quartiles) of their raw
    labels."""
    parts = np.array_split(
        np.argsort(answers.score, kind="stable"), min(NUM_CURVE_POINTS, len(answers.truth))
    )
    found = []
    for part in parts:
        low, median, high = np.quantile(answers.label[part], (0.25, 0.5, 0.75))
        found.append(
            {
                "score": float(answers.score[part].mean()),
                "low": float(low),
                "median": float(median),
                "high": float(high),
            }
        )
    return found


def _scatter(answers: Answers) -> list[dict[str, float]]:
    """Some images: ``score`` against raw ``label``."""
    take = np.linspace(0, len(answers.truth) - 1, min(NUM_SCATTER, len(answers.truth))).astype(np.int64)
    return [
        {"score": float(s), "label": float(v)}
        for s, v in zip(answers.score[take], answers.label[take], strict=True)
    ]


def compare(candidate: Answers, other: Answers) -> dict[str, Any]:
    """Candidate against other on the same images: ``difference`` and its paired 95 % ``interval`` in the main
    measure and in NLL.

    ``verdict``: ``better`` or ``worse`` where the main measure's interval leaves out 0, else ``no
    difference``; ``too few labels`` below ``quality.MIN_LABELLED`` images.
    """
    n, name = len(candidate.truth), main_metric(candidate.head)
    if n < quality.MIN_LABELLED:
        return {"num_labelled": n, "verdict": "too few labels"}
    ours, theirs = quality.measures(candidate), quality.measures(other)
    weights = quality.draws(candidate.group)
    found: dict[str, Any] = {"num_labelled": n, "main": name}
    for measure in (name, "nll"):
        a, b = ours[measure](np.ones(n)), theirs[measure](np.ones(n))
        found[measure] = {
            "candidate": a,
            "other": b,
            "difference": None if a is None or b is None else a - b,
            "interval": quality.paired_interval(ours[measure], theirs[measure], weights),
        }
    return found | {"verdict": _verdict(found[name]["interval"])}


def _verdict(interval: list[float] | None) -> str:
    if interval is None or interval[0] <= 0 <= interval[1]:
        return "no difference"
    return "better" if interval[0] > 0 else "worse"


def is_better(comparison: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a candidate may replace the other: really better in a head at least, and really worse in
    none."""
    verdicts = [head["verdict"] for head in comparison.values()]
    return "better" in verdicts and "worse" not in verdicts


def change(head: HeadSpec, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> dict[str, float | int]:
    """How far answers [N, K] move when the same images are given otherwise: what a robust model keeps
    small."""
    ranks = mid_ranks(head.counts or [1] * head.num_bins)
    return {
        "images": len(before),
        "mean_prob_change": float(np.abs(after - before).mean()),
        "mean_score_change": float(np.abs((after - before) @ ranks).mean()),
        "same_bin": float((after.argmax(axis=1) == before.argmax(axis=1)).mean()),
    }
