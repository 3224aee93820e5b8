"""Numbers of tags as functions of image weights, fast enough for hundreds of resamples of wide heads.

What is pooled over tags comes from a histogram per image. Average precision by tag is linearised in the
weights: 200 resamples of 10,000 images and 5,000 tags would be ten thousand million pairs to count, the
slopes are one pass over the pairs.

Shapes: N images, V tags, T tags measured, S steps of ``tag_histograms``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pix2score.heads.spec import Calibration
from pix2score.heads.tags import TagsHead, threshold_logits
from pix2score.metrics.formulas import Floats, Measure
from pix2score.metrics.tag_accumulate import BANDS, MIN_TRUE, TagHistograms, bands
from pix2score.metrics.tag_histograms import (
    CENTRES,
    NUM_STEPS,
    average_precision,
    break_even,
    pair_error,
    slopes_of_average_precision,
)

Steps = npt.NDArray[np.uint8]
Targets = npt.NDArray[np.int8]


def pooled_measures(step_NV: Steps, truth_NV: Targets, chunks: Sequence[slice]) -> dict[str, Measure]:
    """``micro_f1`` and ``ece``."""
    true_NS, all_NS = (np.zeros((len(step_NV), NUM_STEPS), dtype=np.float32) for _ in range(2))
    for part in chunks:
        place = step_NV[part] + NUM_STEPS * np.arange(len(step_NV[part]))[:, None]
        size = len(place) * NUM_STEPS
        all_NS[part] = np.bincount(place.ravel(), minlength=size).reshape(-1, NUM_STEPS)
        true_NS[part] = np.bincount(place[truth_NV[part] == 1], minlength=size).reshape(-1, NUM_STEPS)
    prob = 1 / (1 + np.exp(-CENTRES))

    def pooled(w: Floats) -> tuple[Floats, Floats]:
        weight = w.astype(np.float32)
        return (weight @ true_NS).astype(np.float64), (weight @ all_NS).astype(np.float64)

    def ece(w: Floats) -> float | None:
        true, num = pooled(w)
        return pair_error(prob, num, true)

    return {"micro_f1": lambda w: break_even(*pooled(w))[0], "ece": ece}


def map_measures(
    head: TagsHead, step_NV: Steps, truth_NV: Targets, chunks: Sequence[slice]
) -> dict[str, Measure]:
    """``map``, and by band: mean average precision of the tags on at least ``MIN_TRUE`` images."""
    tags = TagHistograms.zeros(step_NV.shape[1])
    for part in chunks:
        tags.add(step_NV[part], truth_NV[part])
    chosen = np.flatnonzero(tags.num_true >= MIN_TRUE)
    true, num = tags.true[chosen], tags.all[chosen]
    found = average_precision(true, num)
    of_true, of_any = (s.ravel() for s in slopes_of_average_precision(true, num))
    groups = _groups(head, chosen)
    member_TG = np.stack(
        [np.isin(np.arange(len(chosen)), g) / max(1, len(g)) for g in groups.values()], axis=1
    )
    slope_NG = np.zeros((len(step_NV), len(groups)))
    for part in chunks:
        place = step_NV[part][:, chosen] + NUM_STEPS * np.arange(len(chosen))
        slope_NG[part] = (of_any[place] + (truth_NV[part][:, chosen] == 1) * of_true[place]) @ member_TG
    return {
        f"map{name}": _linear(float(found[group].mean()), slope_NG[:, i]) if len(group) else _undefined
        for i, (name, group) in enumerate(groups.items())
    }


def f1_measures(
    head: TagsHead, logit_NV: Floats, truth_NV: Targets, calibration: Calibration
) -> dict[str, Measure]:
    """``macro_f1``, and by band: mean F1 at the tags' own thresholds of those on at least ``MIN_TRUE``."""
    is_true = truth_NV == 1
    chosen = np.flatnonzero(is_true.sum(0) >= MIN_TRUE)
    is_said = logit_NV >= threshold_logits(calibration)
    pairs = [np.nonzero(p[:, chosen]) for p in (is_true & is_said, is_said, is_true)]

    def f1(w: Floats) -> Floats:
        hits, said, true = (np.bincount(tag, w[image], len(chosen)) for image, tag in pairs)
        return np.asarray(2 * hits / np.maximum(said + true, 1e-12))

    def of(group: npt.NDArray[np.int64]) -> Measure:
        return lambda w: float(f1(w)[group].mean())

    groups = _groups(head, chosen)
    return {f"macro_f1{name}": of(g) if len(g) else _undefined for name, g in groups.items()}


def _groups(head: TagsHead, chosen_T: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
    """Ending of a name -> which of the chosen tags it is of."""
    band = bands(head, chosen_T)
    return {
        "": np.arange(len(band)),
        **{f"_{word}": np.flatnonzero(band == i) for i, word in enumerate(BANDS)},
    }


def _linear(value: float, slope_N: Floats) -> Measure:
    """``value`` where every image weighs 1, and from there along its slopes."""
    return lambda w: value + float((w - 1) @ slope_N)


def _undefined(_: Floats) -> None:
    return None
