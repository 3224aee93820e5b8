"""Measures mean what they are called, under any weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.heads.ordered import OrderedHead
from pix2score.metrics.formulas import calibration_error
from pix2score.metrics.measures import (
    OrderedAnswers,
    constant_numbers,
    guess_measures,
    measures,
    softened,
    values,
)
from tests.metrics.answers import answers_of as any_answers_of
from tests.metrics.answers import totals_of
from tests.support.torch_helpers import COUNT_HEAD, LEVEL_HEAD


def answers_of(num: int, seed: int = 0, signal: float = 2.0) -> OrderedAnswers:
    return OrderedAnswers.of(any_answers_of(num, seed, signal=signal))


def repeated(answers: OrderedAnswers, times: npt.NDArray[np.int64]) -> OrderedAnswers:
    parts = (answers.log_probs, answers.truth, answers.label)
    return OrderedAnswers(answers.head, *(np.repeat(part, times, axis=0) for part in parts))


@pytest.mark.parametrize("head", [COUNT_HEAD, LEVEL_HEAD], ids=lambda h: h.name)
def test_shared_numbers_are_those_of_the_accumulator(head: OrderedHead) -> None:
    answers = any_answers_of(300, head=head)
    found, wanted = values(measures(OrderedAnswers.of(answers)), 300), totals_of(answers).result()
    shared = set(found) & set(wanted) - {"ece"}
    assert shared >= {"spearman", "kappa", "accuracy", "within_1", "macro_recall", "mae_bins", "nll", "rps"}
    for name in shared:
        assert found[name] == pytest.approx(wanted[name], abs=1e-12), name
    assert found["ece"] == pytest.approx(wanted["ece"], abs=1e-8)  # whose logits are kept as float32


@given(st.integers(0, 50), st.lists(st.integers(0, 3), min_size=30, max_size=30).filter(lambda w: sum(w) > 5))
@settings(max_examples=60)
def test_a_weight_counts_an_image_so_many_times(seed: int, weights: list[int]) -> None:
    answers, times = answers_of(30, seed), np.array(weights)
    weighted = measures(answers)
    plain = values(measures(repeated(answers, times)), int(times.sum()))
    for name, measure in weighted.items():
        if not name.startswith(("auc", "lift")):  # which images are the top is decided once, before any draw
            assert measure(times.astype(float)) == pytest.approx(plain[name], abs=1e-9, rel=1e-12), name


def test_auc_is_the_share_of_pairs_in_the_right_order_and_lift_the_gain_among_the_best_scored() -> None:
    answers = answers_of(200, signal=1.0)
    positive = answers.label >= np.quantile(answers.label, 0.95)
    above, below = answers.score[positive], answers.score[~positive]
    pairs = (above[:, None] > below[None, :]).mean() + (above[:, None] == below[None, :]).mean() / 2
    found = values(measures(answers), 200)
    assert found["auc_top5"] == pytest.approx(pairs)
    best = np.argsort(-answers.score)[:10]
    assert found["lift_top5"] == pytest.approx(positive[best].mean() / positive.mean())
    assert 0.5 < pairs < 1


def test_perfect_answers_reach_the_ends_of_every_scale() -> None:
    answers = answers_of(400, signal=60.0)
    found = values(measures(answers), 400)
    for name in ("kappa", "accuracy", "within_1", "macro_recall"):
        assert found[name] == pytest.approx(1), name
    for name in ("mae_bins", "nll", "rps", "ece"):
        assert found[name] == pytest.approx(0, abs=1e-6), name


def test_the_calibration_error_of_too_sure_answers_shrinks_with_the_right_temperature() -> None:
    answers = answers_of(4000, signal=1.0)  # exactly calibrated: logits are normal with a raised truth
    sharp = softened(answers.log_probs, 4.0)
    correct = answers.log_probs.argmax(axis=1) == answers.truth
    before = calibration_error(np.exp(sharp).max(axis=1), correct, np.ones(4000))
    after = calibration_error(answers.probs.max(axis=1), correct, np.ones(4000))
    assert before is not None
    assert after is not None
    assert before > 0.2 > 3 * after
    np.testing.assert_allclose(softened(sharp, 0.25), answers.log_probs, atol=1e-9)


def test_constants_are_the_prior_the_median_and_the_majority() -> None:
    truth = np.array([0, 0, 1, 3])
    found = constant_numbers(COUNT_HEAD, np.bincount(truth, minlength=4))  # train counts 40 30 20 10
    assert found["accuracy"] == 0.5
    assert found["mae_bins"] == pytest.approx((1 + 1 + 0 + 2) / 4)
    assert found["nll"] == pytest.approx(-np.log([0.4, 0.4, 0.3, 0.1]).mean())


def test_a_reference_of_plain_numbers_is_measured_too() -> None:
    answers = answers_of(100)
    found = values(guess_measures(answers, answers.truth.astype(float) + 0.2), 100)
    assert found["accuracy"] == 1
    assert found["mae_bins"] == pytest.approx(
        np.minimum(answers.truth + 0.2, 3).mean() - answers.truth.mean()
    )
    assert "nll" not in found


def test_equal_scores_count_as_half_in_the_auc() -> None:
    flat = np.full((8, 4), np.log(0.25))
    label = np.array([0, 0, 0, 0, 0, 0, 0, 9.0])
    answers = OrderedAnswers(COUNT_HEAD, flat, np.zeros(8, np.int64), label)
    assert measures(answers)["auc_top20"](np.ones(8)) == 0.5
