"""Numbers of heads that answer with a number: in its own unit, beside the constant and the ridge."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk
from sklearn.linear_model import LinearRegression

from pix2score.heads.value import ValueHead
from pix2score.metrics.measures import values
from pix2score.metrics.protocol import Answers
from pix2score.metrics.value import ValueAccumulator, ValueNumbers, fit_line
from pix2score.metrics.verdict import head_verdict

HEAD = ValueHead(
    name="h",
    column="c",
    mean=50.0,
    std=10.0,
    quantiles=tuple(50 + 10 * stats.norm.ppf(np.linspace(0.001, 0.999, 101))),
)
KIND = ValueNumbers()


def drawn(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised outputs, and labels in their own unit that follow them with noise."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(size=num)
    return outputs, 50 + 6 * outputs + rng.normal(0, 8, num)


def added(outputs: np.ndarray, labels: np.ndarray, head: ValueHead = HEAD) -> ValueAccumulator:
    found = ValueAccumulator(head)
    found.add(outputs if outputs.ndim > 1 else outputs[:, None], labels.astype(np.float32), labels)
    return found


def answers_of(outputs: np.ndarray, labels: np.ndarray) -> Answers:
    return Answers(HEAD, outputs[:, None], labels.astype(np.float32), labels, np.arange(len(labels)))


def test_every_number_is_scikit_learns_in_the_labels_own_unit() -> None:
    outputs, labels = drawn(300)
    said = 50 + 10 * outputs
    mse = sk.mean_squared_error(labels, said)
    assert values(KIND.measures(answers_of(outputs, labels)), 300) == {
        "pearson": pytest.approx(stats.pearsonr(said, labels).statistic),
        "mse": pytest.approx(mse),
        "rmse": pytest.approx(math.sqrt(mse)),
        "mae": pytest.approx(sk.mean_absolute_error(labels, said)),
        "spearman": pytest.approx(stats.spearmanr(said, labels).statistic),
    }


def test_the_constant_is_the_train_splits_mean_whose_mse_is_the_variance() -> None:
    _, labels = drawn(5000)
    constant = KIND.constant(answers_of(labels, labels))
    assert constant["mse"] == pytest.approx(((labels - 50) ** 2).mean())
    assert constant["mse"] == pytest.approx(labels.var(), rel=0.01)
    assert constant["mae"] == pytest.approx(np.abs(labels - 50).mean())


def test_the_line_is_the_linear_regressions_on_many_images() -> None:
    outputs, labels = drawn(5000)
    found = added(0.2 * outputs - 1, labels).calibration()
    known = LinearRegression().fit((50 + 10 * (0.2 * outputs - 1))[:, None], labels)
    assert found["slope"] == pytest.approx(known.coef_[0], rel=0.01)
    assert found["offset"] == pytest.approx(known.intercept_, rel=0.02)
    assert found["residual_std"] == pytest.approx(8, rel=0.03)


@given(st.integers(0, 12), st.integers(0, 2**31), st.sampled_from([0.0, 1e-9, 1.0, 1e3]))
@settings(max_examples=80)
def test_few_images_of_any_kind_give_a_finite_line_that_keeps_the_order(
    num: int, seed: int, scale: float
) -> None:
    rng = np.random.default_rng(seed)
    found = added(rng.normal(size=num) * scale, rng.normal(50, 10, num)).calibration()
    assert all(math.isfinite(value) for value in found.values())
    assert found["slope"] > 0
    assert found["residual_std"] > 0


def test_two_images_move_the_line_little_and_none_not_at_all() -> None:
    assert ValueAccumulator(HEAD).calibration() == {"slope": 1.0, "offset": 0.0, "residual_std": 10.0}
    slope, level = fit_line(np.array([0.1, 0.2]), np.array([-3.0, 3.0]))
    assert 0.9 < slope < 1.5
    assert abs(level) < 0.2


def test_a_model_that_is_worse_than_the_mean_gets_nearly_the_mean_everywhere() -> None:
    outputs, labels = drawn(2000)
    totals = added(-outputs, labels)
    found = HEAD.answer(-outputs[:, None].astype(np.float32), totals.calibration()).value
    assert found.std() < 0.5
    assert found.mean() == pytest.approx(labels.mean(), abs=0.2)
    assert totals.relative_loss() == pytest.approx(1, abs=0.03)


@given(st.integers(0, 40), st.integers(0, 2**31), st.data())
@settings(max_examples=30)
def test_merging_is_adding_in_any_order_and_missing_labels_weigh_nothing(
    num: int, seed: int, data: st.DataObject
) -> None:
    outputs, labels = drawn(num, seed)
    labels[np.random.default_rng(seed).random(num) < 0.3] = np.nan
    cut = data.draw(st.integers(0, num))
    a, b = (added(outputs[rows], labels[rows]) for rows in (slice(0, cut), slice(cut, None)))
    labelled = ~np.isnan(labels)
    whole = added(outputs[labelled], labels[labelled])
    for merged in (a.merge(b), b.merge(a)):
        assert merged.num_labelled == labelled.sum()
        for found, wanted in ((merged.result(), whole.result()), (merged.calibration(), whole.calibration())):
            assert found.keys() == wanted.keys()
            for name, value in wanted.items():
                assert found[name] == (None if value is None else pytest.approx(value, rel=1e-5, abs=1e-4)), (
                    name
                )


def test_results_are_those_of_the_saved_model_once_calibrated() -> None:
    outputs, labels = drawn(800)
    totals = added(3 * outputs + 1, labels)
    raw, calibrated = totals.result(), totals.calibrated().result()
    assert raw["mse"] > 2 * calibrated["mse"]
    assert raw["pearson"] == pytest.approx(calibrated["pearson"])
    assert totals.relative_loss() == pytest.approx(calibrated["mse"] / calibrated["prior_mse"], rel=1e-5)
    assert totals.ece({}) is None
    assert totals.picture() is None


def test_a_distributions_mean_is_measured_as_a_number() -> None:
    head = ValueHead(**{**{key: getattr(HEAD, key) for key in HEAD.to_dict()}, "loss": "expected"})
    outputs = np.random.default_rng(0).normal(0, 2, (600, head.num_outputs))
    labels = 50 + 10 * head.standardised(outputs)
    found = added(outputs, labels, head).calibrated().result()
    assert found["pearson"] == pytest.approx(1, abs=1e-6)
    assert found["mse"] < 0.01 * found["prior_mse"]


def test_an_evaluation_has_every_number_with_its_interval_beside_both_references() -> None:
    outputs, labels = drawn(300)
    guess = 50 + 3 * outputs
    verdict = head_verdict(answers_of(outputs, labels), added(outputs, labels), {"slope": 1.0}, guess)
    for name in ("pearson", "mse", "rmse", "mae", "spearman"):
        low, high = verdict.interval[name]
        assert low < verdict.numbers[name] < high, name
        assert verdict.ridge[name] is not None, name
    assert verdict.main == "pearson"
    assert {"mse", "rmse", "mae"} <= verdict.constant.keys()


def test_a_regressions_guess_ends_at_the_range_too() -> None:
    head = ValueHead(name="h", column="c", range=(0, 1), mean=0.5, std=0.3)
    answers = Answers(head, np.zeros((2, 1)), np.array([0.0, 1.0]), np.array([0.0, 1.0]), np.arange(2))
    assert values(KIND.guess_measures(answers, np.array([-5.0, 7.0])), 2)["mse"] == 0


def test_curves_follow_labels_over_predictions() -> None:
    outputs, labels = drawn(1000)
    found = KIND.curves(answers_of(outputs, labels), {})
    predicted = [part["predicted"] for part in found["curve"]]
    assert predicted == sorted(predicted)
    assert found["curve"][-1]["median"] > found["curve"][0]["median"]
    assert sum(step["share"] for step in found["residuals"]) == pytest.approx(1)
    assert len(found["scatter"]) == 400


def test_a_value_that_moves_by_less_than_a_tenth_of_its_spread_is_the_same() -> None:
    found = KIND.change(HEAD, np.array([[0.0], [0.0]]), np.array([[0.05], [0.5]]))
    assert found["same_bin"] == 0.5
    assert found["mean_score_change"] == pytest.approx((0.0199 + 0.1915) / 2, abs=0.002)


def test_an_offset_that_chance_explains_stays_0_and_a_large_one_is_taken() -> None:
    said = np.tile([-1.0, 1.0], 150)
    noise = np.tile([-1.0, -1.0, 1.0, 1.0], 75)
    slope, level = fit_line(said, 0.5 * said + noise + 0.1)
    assert level == 0
    assert slope == pytest.approx(0.5, abs=0.01)
    assert fit_line(said, 0.5 * said + noise + 2)[1] == pytest.approx(2, abs=0.05)
