"""The baseline of a training is judged on validation rows, at the penalty that they like best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pix2score.metrics.formulas import rank_correlation
from pix2score.metrics.ridge import PENALTIES, HeadSums, answers, features
from pix2score.train.baseline import RidgeBaseline
from pix2score.train.step.batch import Batch
from tests.metrics.test_ridge import coloured
from tests.support.torch_helpers import COUNT_HEAD

HEAD = replace(COUNT_HEAD, counts=(75, 75, 75, 75))
UNLABELLED = replace(HEAD, name="view")


def batch_of(num: int, seed: int) -> Batch:
    images, bins = coloured(num, seed)
    noisy = np.where(np.random.default_rng(seed).random(num) < 0.7, bins, seed % 4)
    noisy[:5] = -1
    found = torch.from_numpy(noisy)
    nothing = torch.full_like(found, -1)
    targets = {"bookmark": found, "view": nothing}
    return Batch(torch.from_numpy(images), targets, {name: t.double() for name, t in targets.items()})


def test_it_has_the_correlation_of_the_penalty_that_errs_least() -> None:
    baseline = RidgeBaseline([HEAD, UNLABELLED])
    learnt, judged = batch_of(120, 1), batch_of(60, 2)
    baseline.add(learnt)
    baseline.solve()
    baseline.judge(judged)
    found = baseline.correlations()

    sums = {"train": HeadSums.zeros(648), "val": HeadSums.zeros(648)}
    for split, batch in (("train", learnt), ("val", judged)):
        bins = batch.targets["bookmark"].numpy()
        sums[split].add(features(batch.pixels_BSSC.numpy())[5:], bins[5:].astype(float))
    penalty = sums["train"].best_penalty(sums["val"])
    scores = answers(sums["train"].solve([penalty]), features(judged.pixels_BSSC.numpy()))[5:, 0]
    expected = rank_correlation(scores, judged.targets["bookmark"].numpy()[5:].astype(float))
    assert penalty in PENALTIES
    assert found == {"bookmark": pytest.approx(expected, abs=1e-6), "view": None}
    assert 0.3 < expected < 0.99
