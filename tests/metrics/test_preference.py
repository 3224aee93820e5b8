"""Numbers of pairs: accuracy, calibration, agreement, and the ridge on differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pix2score.heads.compared import MAX_IMAGES, TARGET_SIZE
from pix2score.heads.preference import PreferenceHead
from pix2score.metrics.formulas import Floats
from pix2score.metrics.preference import PreferenceNumbers, best_sharpness, measures
from pix2score.metrics.protocol import Answers
from pix2score.metrics.ridge import HeadSums

HEAD, NUMBERS = PreferenceHead(name="liked"), PreferenceNumbers()


def target(*ranks: float, weight: float = 1.0, agreement: float = math.nan) -> list[float]:
    return [weight, agreement, *ranks, *[math.nan] * (TARGET_SIZE - 2 - len(ranks))]


def side_by_side(*values: float) -> list[float]:
    return [*values, *[math.nan] * (MAX_IMAGES - len(values))]


def answers(logits: list[list[float]], targets: list[list[float]]) -> Answers:
    truth = np.array(targets, dtype=np.float32)
    return Answers(HEAD, np.array(logits), truth, truth[:, 2:].astype(np.float64), np.arange(len(truth)))


def drawn(num: int, true_scale: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Logits [N, K] and targets of pairs that are ordered with the chance that ``true_scale`` logits say."""
    rng = np.random.default_rng(seed)
    logits = np.full((num, MAX_IMAGES), np.nan)
    logits[:, :2] = rng.normal(size=(num, 2))
    first = rng.random(num) < 1 / (1 + np.exp(-true_scale * (logits[:, 0] - logits[:, 1])))
    return logits, np.array([target(1, 2) if f else target(2, 1) for f in first])


FEW = answers(
    [side_by_side(2, 1), side_by_side(0, 1, 2), side_by_side(1, 1)],
    [target(1, 2, agreement=0.8), target(2, 1, 2, weight=6, agreement=0.5), target(1, 2)],
)


def test_accuracy_weighs_sets_counts_equal_rewards_half_and_leaves_ties_out() -> None:
    found = {name: measure(np.ones(3)) for name, measure in measures(FEW).items()}
    assert found["pair_accuracy"] == pytest.approx((1 + 6 * 0.5 + 0.5) / 8)
    nll = [math.log1p(math.exp(-m)) for m in (1, 1, -1, 0)]
    assert found["nll"] == pytest.approx((nll[0] + 3 * nll[1] + 3 * nll[2] + nll[3]) / 8)
    assert found["rater_agreement"] == pytest.approx((0.8 + 6 * 0.5) / 7)


def test_weights_of_rows_redraw_whole_sets() -> None:
    assert measures(FEW)["pair_accuracy"](np.array([1.0, 0, 0])) == 1
    assert measures(FEW)["pair_accuracy"](np.array([0.0, 0, 0])) is None
    assert measures(FEW)["rater_agreement"](np.array([0.0, 0, 3])) is None


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
def test_the_temperature_that_pairs_were_drawn_with_is_found_and_calibrates(scale: float) -> None:
    logits, targets = drawn(20_000, scale)
    assert best_sharpness(logits, targets) == pytest.approx(scale, rel=0.07)
    totals = NUMBERS.accumulator(HEAD)
    totals.add(np.nan_to_num(logits), targets, targets[:, 2:])
    assert totals.calibration()["temperature"] == pytest.approx(1 / scale, rel=0.07)
    ece, nll = totals.calibrated().result()["ece"], totals.calibrated().result()["nll"]
    assert ece is not None
    assert nll is not None
    assert ece < 0.015
    assert totals.relative_loss() == pytest.approx(nll / math.log(2))
    assert nll < math.log(2)


def test_a_model_that_knows_nothing_costs_no_more_than_the_constant() -> None:
    logits, targets = drawn(2_000, 0.0)
    totals = NUMBERS.accumulator(HEAD)
    totals.add(logits, targets, targets[:, 2:])
    assert totals.relative_loss() < 1.001


def test_rewards_are_standardised_over_the_images_of_sets_and_rows_without_one_do_not_count() -> None:
    logits, targets = drawn(500, 1.0)
    logits[::2] += 100  # as if of images that are in no set
    targets[::2] = math.nan
    totals, other = NUMBERS.accumulator(HEAD), NUMBERS.accumulator(HEAD)
    totals.add(logits[:200], targets[:200], targets[:200, 2:])
    other.add(logits[200:], targets[200:], targets[200:, 2:])
    merged = totals.merge(other)
    calibration = merged.calibration()
    raw = logits[1::2, :2].astype(np.float32).ravel()
    assert merged.num_labelled == 250
    assert calibration["mean"] == pytest.approx(raw.mean(), abs=1e-6)
    found = HEAD.answer(raw[:, None], calibration)
    assert (found.reward.mean(), found.reward.std()) == (
        pytest.approx(0, abs=1e-5),
        pytest.approx(1, abs=1e-5),
    )
    np.testing.assert_allclose(np.sort(found.score), (np.arange(500) + 0.5) / 500, atol=0.01)


def test_without_a_set_there_is_nothing_to_say() -> None:
    empty = NUMBERS.accumulator(HEAD)
    empty.add(
        np.zeros((3, MAX_IMAGES)), np.full((3, TARGET_SIZE), math.nan), np.full((3, MAX_IMAGES), math.nan)
    )
    assert (empty.num_labelled, empty.result(), empty.calibration(), empty.ece({})) == (
        0,
        {"num_labelled": 0},
        {},
        None,
    )


def test_the_ridge_learns_differences_of_features_whose_images_lie_where_rows_say() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 4, 60)
    firsts, others = rng.normal(size=(60, 5)), rng.normal(size=(counts.sum(), 5))
    start, targets, worth = 0, [], np.array([1.0, -2.0, 0.5, 0, 0])
    for i, count in enumerate(counts.tolist()):
        images = np.concatenate([firsts[i : i + 1], others[start : start + count]])
        start += count
        ranks = (-(images @ worth)).argsort().argsort() + 1.0
        targets.append(target(*ranks) if count else [math.nan] * TARGET_SIZE)
    found = NUMBERS.ridge_rows(HEAD, firsts, others, counts, np.array(targets, dtype=np.float32))
    assert found is not None
    rows, wanted = found
    assert wanted.sum() == 0
    assert len(rows) == 2 * (counts * (counts + 1) // 2).sum()
    assert ((rows @ worth > 0) == (wanted > 0)).all()
    sums = HeadSums.zeros(5)
    sums.add(rows, wanted)
    weights = sums.solve([0.01])[0]
    assert weights[0] == pytest.approx(0, abs=1e-9)
    assert np.corrcoef(weights[1:], worth)[0, 1] > 0.95


def test_misses_are_the_chance_given_to_the_wrong_order() -> None:
    found = NUMBERS.misses(HEAD, FEW.outputs, FEW.truth)
    wrong = [1 / (1 + math.e), 0.5, 0.5]
    np.testing.assert_allclose(found, wrong, rtol=1e-6)


def test_a_guess_without_probabilities_has_an_accuracy_and_no_nll() -> None:
    found = NUMBERS.guess_measures(FEW, FEW.outputs)
    assert set(found) == {"pair_accuracy", "accuracy_sure_half"}


def test_curves_draw_accuracy_by_margin() -> None:
    logits, targets = drawn(4_000, 1.0)
    drawn_answers = answers(logits.tolist(), targets.tolist())
    steps = NUMBERS.curves(drawn_answers, {"temperature": 2.0})["by_margin"]
    assert [step["pairs"] for step in steps] == [500] * 8
    assert steps[0]["correct"] < 0.6
    assert steps[-1]["correct"] > 0.85


def test_an_altered_copy_is_compared_with_the_first_image() -> None:
    before = np.array([side_by_side(0, 5), side_by_side(2)], dtype=np.float32)
    found = NUMBERS.change(HEAD, before, np.array([[0.0], [3.0]], dtype=np.float32))
    assert found["same_bin"] == 0.5
    assert found["mean_score_change"] == 0.5
    assert found["mean_prob_change"] == pytest.approx((1 / (1 + math.exp(-1)) - 0.5) / 2)
