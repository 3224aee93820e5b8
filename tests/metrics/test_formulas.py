"""Formulas agree with scikit-learn and numpy, ties and weights included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from pix2score.metrics.formulas import auc, average_precision, pearson


@given(st.integers(2, 60), st.integers(0, 2**31))
@settings(max_examples=60)
def test_auc_and_average_precision_are_scikit_learns_under_any_weights(num: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, positive = rng.integers(0, 8, num) / 8, rng.random(num) < 0.4
    weight = rng.integers(0, 3, num).astype(float)
    weight[0] = weight[-1] = 1
    positive[0], positive[-1] = True, False
    for measure, known in ((auc, roc_auc_score), (average_precision, average_precision_score)):
        found = measure(score, positive)(weight)
        assert found == pytest.approx(known(positive, score, sample_weight=weight), abs=1e-12)


def test_without_a_positive_image_there_is_no_precision() -> None:
    assert average_precision(np.arange(3.0), np.zeros(3, bool))(np.ones(3)) is None


def test_pearson_is_numpys_at_any_scale_and_counts_weights_as_repeats() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=40)
    b = a + rng.normal(size=40)
    wanted = np.corrcoef(a, b)[0, 1]
    for scale in (1e-200, 1.0, 1e200):
        assert pearson(a * scale, 3 + b)(np.ones(40)) == pytest.approx(wanted)
    weight = rng.integers(0, 4, 40)
    repeated = np.corrcoef(a.repeat(weight), b.repeat(weight))[0, 1]
    assert pearson(a, b)(weight.astype(float)) == pytest.approx(repeated)


def test_pearson_of_a_constant_is_undefined() -> None:
    assert pearson(np.full(5, 0.1), np.arange(5.0))(np.ones(5)) is None
    assert pearson(np.arange(5.0), np.arange(5.0))(np.zeros(5)) is None
