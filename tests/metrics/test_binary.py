"""Numbers of yes-or-no heads: as scikit-learn has them, and probabilities that hold whatever the loss was."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from pix2score.heads.binary import BinaryHead, probability
from pix2score.metrics.binary import BinaryAccumulator, BinaryNumbers
from pix2score.metrics.measures import values
from pix2score.metrics.platt import best_threshold, fit_line
from pix2score.metrics.protocol import Answers
from pix2score.metrics.verdict import head_verdict

HEAD = BinaryHead(name="liked", column="liked", counts=(700, 300))
KIND = BinaryNumbers()


def drawn(
    num: int, seed: int = 0, head: BinaryHead = HEAD, signal: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Log odds that hold, and answers drawn by them."""
    rng = np.random.default_rng(seed)
    logit = rng.normal(head.prior_logit, signal, num)
    return logit, (rng.random(num) < probability(logit)).astype(np.int64)


def added(logit: np.ndarray, truth: np.ndarray, head: BinaryHead = HEAD) -> BinaryAccumulator:
    found = BinaryAccumulator(head)
    found.add(logit[:, None], truth, np.where(truth < 0, np.nan, truth))
    return found


def answers_of(logit: np.ndarray, truth: np.ndarray, **calibration: float) -> Answers:
    return Answers(HEAD, logit[:, None], truth, truth.astype(float), np.arange(len(truth)), calibration)


def test_every_number_is_scikit_learns() -> None:
    logit, truth = drawn(400)
    prob, said = probability(logit), probability(logit) >= 0.35
    found = values(KIND.measures(answers_of(logit, truth, threshold=0.35)), 400)
    assert found == {
        "auc": pytest.approx(sk.roc_auc_score(truth, prob)),
        "ap": pytest.approx(sk.average_precision_score(truth, prob)),
        "accuracy": pytest.approx(sk.accuracy_score(truth, prob >= 0.5)),
        "brier": pytest.approx(sk.brier_score_loss(truth, prob)),
        "nll": pytest.approx(sk.log_loss(truth, prob)),
        "ece": pytest.approx(0.03, abs=0.03),
        "spearman": pytest.approx(found["spearman"]),
        "accuracy_at_threshold": pytest.approx(sk.accuracy_score(truth, said)),
        "balanced_accuracy": pytest.approx(sk.balanced_accuracy_score(truth, said)),
    }


def test_without_a_threshold_nothing_is_told_at_it() -> None:
    found = KIND.measures(answers_of(*drawn(10)))
    assert "balanced_accuracy" not in found
    assert "accuracy" in found


def test_the_constant_answers_with_the_train_splits_share() -> None:
    logit, truth = drawn(500)
    constant = KIND.constant(answers_of(logit, truth))
    prior = answers_of(np.full(500, HEAD.prior_logit), truth, threshold=0.31)
    measured = values(KIND.measures(prior), 500)
    assert constant.pop("ece") == pytest.approx(abs(0.3 - truth.mean()))  # one group: all are as sure
    for name, value in constant.items():
        assert measured[name] == pytest.approx(value), name


def test_a_regressions_guess_is_taken_as_a_probability() -> None:
    truth = np.array([0, 0, 1, 1, 0, 1])
    guess = np.array([-0.2, 0.1, 0.4, 1.3, 0.35, 0.9])
    found = values(KIND.guess_measures(answers_of(guess, truth), guess), 6)
    clipped = guess.clip(0.01, 0.99)
    assert found["nll"] == pytest.approx(sk.log_loss(truth, clipped))
    assert found["brier"] == pytest.approx(((clipped - truth) ** 2).mean())
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, guess >= 0.3))
    assert found["auc"] == pytest.approx(sk.roc_auc_score(truth, guess))


def test_the_line_is_logistic_regressions_on_many_images() -> None:
    logit, truth = drawn(5000)
    off = 0.4 * logit + 2.0
    slope, offset = fit_line(off, truth == 1, 0.4 * HEAD.prior_logit + 2.0, HEAD.prior_logit)
    known = LogisticRegression(C=1e9, tol=1e-10).fit(off[:, None], truth)
    assert slope == pytest.approx(known.coef_[0, 0], rel=0.02)
    assert offset == pytest.approx(known.intercept_[0], rel=0.02)


@pytest.mark.parametrize("loss", ["bce", "focal"])
@pytest.mark.parametrize("weight", [1.0, 20.0, "balanced"])
def test_a_weighted_loss_answers_for_other_odds_and_the_calibration_puts_the_prior_back(
    loss: str, weight: float | str
) -> None:
    head = BinaryHead(name="h", column="c", counts=(900, 100), loss=loss, positive_weight=weight)
    honest, truth = drawn(3000, head=head)
    outputs = honest + head.constant_logit - head.prior_logit  # as such a loss moves them
    for num in (0, 3, 3000):
        found = added(outputs[:num], truth[:num], head).calibration()
        prob = head.answer(outputs[:, None].astype(np.float32), found).prob
        assert prob.mean() == pytest.approx(0.1, abs=0.05), num
        assert found["threshold"] == pytest.approx(0.1, abs=0.06)


@given(st.integers(0, 30), st.integers(0, 2**31), st.sampled_from([1e-9, 1.0, 1e3]))
@settings(max_examples=80)
def test_few_images_of_any_kind_give_a_finite_line_that_keeps_the_order(
    num: int, seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    logit, truth = rng.normal(size=num) * scale, rng.integers(0, 2, num)
    found = added(logit, truth).calibration()
    assert all(math.isfinite(value) for value in found.values())
    assert found["slope"] > 0
    assert 0 <= found["threshold"] <= 1


def test_five_separated_images_make_no_certainty() -> None:
    logit, truth = np.array([-1.0, -0.5, 0.0, 0.5, 1.0]), np.array([0, 0, 0, 1, 1])
    found = added(logit, truth).calibration()
    prob = HEAD.answer(logit[:, None].astype(np.float32), found).prob
    assert prob.min() > 0.02
    assert prob.max() < 0.98
    assert found["threshold"] == HEAD.prior


def test_a_model_that_ranks_worse_than_chance_gets_nearly_the_same_probability_everywhere() -> None:
    logit, truth = drawn(2000)
    prob = HEAD.answer(logit[:, None].astype(np.float32), added(-logit, truth).calibration()).prob
    assert prob.std() < 0.01
    assert prob.mean() == pytest.approx(truth.mean(), abs=0.03)


@given(st.integers(2, 40), st.integers(0, 2**31))
@settings(max_examples=60)
def test_the_threshold_has_the_best_balanced_accuracy_that_any_has(num: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    prob, yes = rng.integers(1, 8, num) / 8, rng.random(num) < 0.5
    yes[0], yes[1] = True, False
    best = max(sk.balanced_accuracy_score(yes, prob >= t) for t in [*np.unique(prob), 1.1])
    threshold = best_threshold(prob, yes, 0.5)
    assert sk.balanced_accuracy_score(yes, prob >= threshold) == pytest.approx(best)


def test_of_thresholds_as_good_the_one_nearest_to_the_prior_is_taken() -> None:
    prob, yes = np.array([0.1, 0.2, 0.3, 0.9]), np.array([False, True, False, True])
    assert best_threshold(prob, yes, 0.2) == pytest.approx(0.15)
    assert best_threshold(prob, yes, 0.8) == pytest.approx(0.6)


@given(st.integers(0, 40), st.integers(0, 2**31), st.data())
@settings(max_examples=30)
def test_merging_is_adding_in_any_order_and_missing_labels_weigh_nothing(
    num: int, seed: int, data: st.DataObject
) -> None:
    logit, truth = drawn(num, seed)
    truth[np.random.default_rng(seed).random(num) < 0.3] = -1
    cut = data.draw(st.integers(0, num))
    a, b = (added(logit[rows], truth[rows]) for rows in (slice(0, cut), slice(cut, None)))
    labelled = truth >= 0
    whole = added(logit[labelled], truth[labelled])
    for merged in (a.merge(b), b.merge(a)):
        assert merged.num_labelled == labelled.sum()
        for found, wanted in ((merged.result(), whole.result()), (merged.calibration(), whole.calibration())):
            assert found.keys() == wanted.keys()
            for name, value in wanted.items():
                assert found[name] == (None if value is None else pytest.approx(value, abs=1e-6)), name


def test_results_are_those_of_the_saved_model_once_calibrated() -> None:
    logit, truth = drawn(800)
    totals = added(3 * logit + 1, truth)
    raw, calibrated = totals.result(), totals.calibrated().result()
    assert raw["nll"] > calibrated["nll"]
    assert raw["auc"] == pytest.approx(calibrated["auc"])
    assert "balanced_accuracy" in calibrated
    assert totals.relative_loss() == pytest.approx(calibrated["nll"] / calibrated["prior_nll"], rel=1e-6)
    assert totals.ece({}) == pytest.approx(raw["ece"])
    assert totals.ece(totals.calibration()) == pytest.approx(calibrated["ece"])
    assert BinaryAccumulator(HEAD).result() == {"num_labelled": 0}


def test_an_evaluation_has_the_numbers_at_the_threshold_with_intervals_beside_both_references() -> None:
    logit, truth = drawn(300)
    totals = added(logit, truth)
    calibration = {"slope": 1.0, "offset": 0.0, "threshold": 0.3}
    verdict = head_verdict(answers_of(logit, truth, **calibration), totals, calibration, probability(logit))
    for name in (
        "auc",
        "ap",
        "accuracy",
        "accuracy_at_threshold",
        "balanced_accuracy",
        "brier",
        "nll",
        "ece",
    ):
        assert verdict.numbers[name] is not None, name
        low, high = verdict.interval[name]
        assert low < high
        assert verdict.constant[name] is not None
        assert verdict.ridge[name] is not None
    assert verdict.main == "auc"
    assert verdict.notes["threshold"] == 0.3


def test_curves_end_at_all_that_is_yes_and_histograms_add_to_one() -> None:
    logit, truth = drawn(1000)
    found = KIND.curves(answers_of(logit, truth), {})
    assert found["precision"][-1]["recall"] == 1
    assert len(found["precision"]) <= 100
    precision, recall, _ = sk.precision_recall_curve(truth, probability(logit))
    known = dict(zip(np.round(recall, 9), precision, strict=True))
    middle = found["precision"][50]
    assert middle["precision"] == pytest.approx(known[round(middle["recall"], 9)], abs=0.02)
    assert [sum(shares) for shares in found["histogram"].values()] == pytest.approx([1, 1])


def test_a_moved_answer_is_the_same_on_the_same_side_of_the_prior() -> None:
    found = KIND.change(HEAD, np.array([[-2.0], [0.0]]), np.array([[-1.9], [-2.0]]))
    assert found["same_bin"] == 0.5
    assert found["images"] == 2
    assert found["mean_score_change"] == pytest.approx(found["mean_prob_change"] * 0.5)


def test_a_level_that_chance_explains_stays_that_of_the_train_split() -> None:
    """300 images of 60 series of one answer each are worth 60."""
    rng = np.random.default_rng(3)
    logit = rng.normal(HEAD.prior_logit, 1, 300)
    few = np.repeat(np.arange(60) < 21, 5)
    many = rng.random(20_000) < probability(rng.normal(HEAD.prior_logit, 1, 20_000) + 0.5)

    def level(logits: np.ndarray, yes: np.ndarray) -> float:
        slope, offset = fit_line(logits, yes, HEAD.prior_logit, HEAD.prior_logit)
        return slope * HEAD.prior_logit + offset - HEAD.prior_logit

    assert few.mean() == HEAD.prior + 0.05
    assert abs(level(logit, few)) < 0.02
    assert level(rng.normal(HEAD.prior_logit, 1, 20_000), many) > 0.3
