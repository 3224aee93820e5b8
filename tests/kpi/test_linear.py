"""The linear models and the leaves are scikit-learn's, and the numbers are its numbers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score, roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from pix2score.kpi.features import Features, Scale, learnt_scale
from pix2score.kpi.fit import _with_leaves
from pix2score.kpi.forest import NUM_LEAVES, fit_forest, leaf_columns
from pix2score.kpi.linear import Rows, fit_linear, logistic, margins, squared
from pix2score.kpi.measure import Truth, measures, numbers_with_intervals
from pix2score.kpi.models import ONLY_TREES, Model
from pix2score.kpi.table import Table

RNG = np.random.default_rng(0)
NUM = 600
X = RNG.normal(size=(NUM, 6)).astype(np.float32)
IMPRESSIONS = RNG.integers(1, 50, NUM).astype(np.float64)
CLICKS = RNG.binomial(IMPRESSIONS.astype(int), 1 / (1 + np.exp(1 - X[:, 0] - X[:, 1] * X[:, 2])))
RATES = Rows([X], CLICKS / IMPRESSIONS, IMPRESSIONS)


def test_a_rate_is_the_logistic_regression_of_every_single_impression() -> None:
    penalty = 0.01
    found = fit_linear(RATES, RATES, logistic, [penalty])
    doubled = LogisticRegression(C=1 / (penalty * IMPRESSIONS.sum()), tol=1e-8, max_iter=1000)
    yes_and_no = np.repeat([1, 0], NUM)
    doubled.fit(np.tile(X, (2, 1)), yes_and_no, np.concatenate([CLICKS, IMPRESSIONS - CLICKS]))
    np.testing.assert_allclose(found.weight, doubled.coef_[0], atol=2e-3)
    assert found.bias == pytest.approx(doubled.intercept_[0], abs=2e-3)


def test_a_number_is_a_ridge_regression() -> None:
    truth = X @ np.arange(6) + 3 + RNG.normal(size=NUM)
    rows = Rows([X], truth, np.ones(NUM))
    found, ridge = fit_linear(rows, rows, squared, [0.1]), Ridge(alpha=0.1 * NUM).fit(X, truth)
    np.testing.assert_allclose(found.weight, ridge.coef_, atol=5e-3)
    assert found.bias == pytest.approx(ridge.intercept_, abs=5e-3)


def test_the_penalty_is_the_one_that_errs_least_on_validation() -> None:
    truth = X[:, 0] + 3 * RNG.normal(size=NUM)
    wide = np.concatenate([X, RNG.normal(size=(NUM, 200)).astype(np.float32)], axis=1)
    train, val = (Rows([wide[part]], truth[part], np.ones(300)) for part in (slice(0, 300), slice(300, 600)))
    best = fit_linear(train, val, squared)
    errors = {
        penalty: np.mean((margins(val.blocks, fit_linear(train, val, squared, [penalty])) - val.truth) ** 2)
        for penalty in (0.01, best.penalty, 10.0)
    }
    assert best.penalty > 0.01
    assert min(errors, key=lambda penalty: errors[penalty]) == best.penalty


def test_leaves_are_one_hot_by_tree() -> None:
    forest = fit_forest("rate", RATES, RATES, 0)
    leaves = forest.predict(X, pred_leaf=True)
    categories = [np.arange(NUM_LEAVES)] * forest.num_trees()
    wanted = OneHotEncoder(categories=categories).fit_transform(leaves)
    assert (leaf_columns(forest, X) != wanted).nnz == 0


def test_normalised_entropy_auc_and_calibration_count_impressions() -> None:
    said = 1 / (1 + np.exp(1 - X[:, 0]))
    truth = Truth("rate", RATES.truth, IMPRESSIONS, np.arange(NUM))
    found = {name: measure(np.ones(NUM)) for name, measure in measures(truth, said).items()}
    yes, weight = np.repeat([1, 0], NUM), np.concatenate([CLICKS, IMPRESSIONS - CLICKS])
    share = CLICKS.sum() / IMPRESSIONS.sum()
    entropy = log_loss([1, 0], [share, share], sample_weight=[share, 1 - share])
    assert found["normalised_entropy"] == pytest.approx(
        log_loss(yes, np.tile(said, 2), sample_weight=weight) / entropy
    )
    assert found["auc"] == pytest.approx(roc_auc_score(yes, np.tile(said, 2), sample_weight=weight))
    assert found["calibration"] == pytest.approx((said * IMPRESSIONS).sum() / CLICKS.sum())


def test_r2_is_that_of_scikit_learn_and_a_constant_has_no_rank_correlation() -> None:
    truth = Truth("number", X[:, 0].astype(float), np.ones(NUM), np.arange(NUM) // 2)
    said = {"half": X[:, 0] / 2.0, "constant": np.zeros(NUM)}
    found = numbers_with_intervals(truth, said, "constant")
    assert found["half"]["r2"] == pytest.approx(r2_score(truth.truth, said["half"]))
    assert found["constant"]["spearman"] is None
    low, high = found["half"]["rmse_minus_constant"]
    assert low < found["half"]["rmse"] - found["constant"]["rmse"] < high < 0


def table_of(num: int) -> Table:
    """A table whose train split is half and half."""
    rng = np.random.default_rng(1)
    rows_NF = rng.normal(size=(num + 200, 6)).astype(np.float32)
    ends = {"first": (0, num // 2), "second": (num // 2, num), "train": (0, num)}
    splits = {name: slice(*ends[name]) for name in ends} | {
        "val": slice(num, num + 100),
        "test": slice(num + 100, num + 200),
    }
    truth_N = (rows_NF[:, 0] * rows_NF[:, 1] + rng.normal(size=len(rows_NF)) > 0).astype(np.float64)
    scale = Scale(np.zeros(6), np.ones(6))
    ones = np.ones(len(truth_N))
    return Table("rate", Features(6, (), ()), scale, rows_NF, truth_N, ones, np.arange(len(truth_N)), splits)


@pytest.mark.parametrize(("halves_from", "shares_rows"), [(2000, True), (1000, False)])
def test_many_rows_teach_trees_and_their_weights_apart(halves_from: int, shares_rows: bool) -> None:
    table = table_of(1000)
    trees = Model(
        name=ONLY_TREES, target="rate", forest=fit_forest("rate", table.rows("train"), table.rows("val"), 0)
    )
    leaves, both = _with_leaves(table, 0, trees, halves_from)
    assert (leaves.forest is trees.forest) == (both.forest is trees.forest) == shares_rows
    if not shares_rows:
        alone = fit_forest("rate", table.rows("first"), table.rows("val"), 0)
        assert leaves.forest.model_to_string() == alone.model_to_string()
        columns = [leaf_columns(alone, table.rows_NF[table.splits[part]]) for part in ("second", "val")]
        again = fit_linear(
            *(table.rows(p, [c]) for p, c in zip(("second", "val"), columns, strict=True)), logistic
        )
        np.testing.assert_array_equal(leaves.linear.weight, again.weight)


def test_a_column_that_never_changes_and_a_missing_number_stay_finite() -> None:
    rows = np.stack([X[:, 0], np.full(NUM, 7.0), np.where(np.arange(NUM) % 3, X[:, 1], np.nan)], axis=1)
    rows = rows.astype(np.float32)
    learnt_scale(rows).apply(rows)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows.std(axis=0)[:2], [1, 0], atol=1e-3)
    assert (rows[::3, 2] == 0).all()
