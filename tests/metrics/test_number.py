"""Heads of bins are measured in the label's own unit too, beside a constant and a guess of the bin."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from pix2score.heads.ordered import OrderedHead
from pix2score.metrics.measures import values
from pix2score.metrics.ordered import OrderedNumbers
from pix2score.metrics.protocol import Answers

HEAD = OrderedHead(name="h", column="c", edges=(10, 100), counts=(5, 3, 2), typical=(4.0, 40.0, 300.0))
TRUTH = np.array([0, 1, 2, 0, 2])
LABEL = np.array([3.0, 50.0, 500.0, 9.0, 150.0])
PROBS = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0, 0.1, 0.9], [0.5, 0.4, 0.1], [0.3, 0.3, 0.4]]).clip(
    1e-9
)
ANSWERS = Answers(HEAD, np.log(PROBS), TRUTH, LABEL, np.arange(5))
KIND = OrderedNumbers()


def test_the_expected_value_is_measured_in_the_labels_own_unit() -> None:
    found, expected = values(KIND.measures(ANSWERS), 5), PROBS @ [4, 40, 300]
    assert found["mse"] == pytest.approx(sk.mean_squared_error(LABEL, expected))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(LABEL, expected))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(LABEL, expected))
    assert found["pearson"] == pytest.approx(np.corrcoef(LABEL, expected)[0, 1])


def test_the_constant_is_the_mean_and_the_median_that_its_bins_give() -> None:
    found = KIND.constant(ANSWERS)
    assert found["mse"] == pytest.approx(((LABEL - 74) ** 2).mean())
    assert found["mae"] == pytest.approx(np.abs(LABEL - 4).mean())


def test_a_guess_between_two_bins_is_a_value_between_their_typical_ones() -> None:
    guess = np.array([0.5, 1.0, 2.5, -1.0, 1.5])
    found = values(KIND.guess_measures(ANSWERS, guess), 5)
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(LABEL, [22, 40, 300, 4, 170]))
