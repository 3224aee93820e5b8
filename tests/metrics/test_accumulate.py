"""Metrics merge like sets of images, and agree with formulas written from their definitions.

Shapes: B images, K bins of a head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.heads.ordered import OrderedHead
from pix2score.metrics.accumulate import OrderedAccumulator
from pix2score.metrics.kinds import main_metric, results

HEAD = OrderedHead(
    name="bookmark", column="bookmarks", edges=(10, 100, 1000, 5000), counts=(30, 25, 20, 15, 10)
)
LEVELS = OrderedHead(name="sanity", column="sanity", kind="levels", size=3)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Images:
    """Logits [B, K], true bins [B] (-1 missing), raw labels [B] (NaN missing)."""

    logits: Floats
    bins: npt.NDArray[np.int64]
    labels: Floats

    def rows(self, rows: slice | npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Images:
        return Images(self.logits[rows], self.bins[rows], self.labels[rows])


def drawn(
    num_images: int, seed: int, head: OrderedHead = HEAD, missing: float = 0.2, signal: float = 1.0
) -> Images:
    """Bins, raw labels with many ties that agree with them, logits that know the bin by ``signal``."""
    rng = np.random.default_rng(seed)
    bins = rng.integers(0, head.num_bins, num_images)
    labels = bins * 10.0 + rng.integers(0, 4, num_images)
    logits = rng.normal(size=(num_images, head.num_bins)) - signal * np.abs(
        np.arange(head.num_bins) - bins[:, None]
    )
    absent = rng.random(num_images) < missing
    return Images(logits, np.where(absent, -1, bins), np.where(absent, np.nan, labels))


def measured(images: Images, head: OrderedHead = HEAD, temperature: float = 1.0) -> OrderedAccumulator:
    metrics = OrderedAccumulator(head, temperature)
    metrics.add(images.logits, images.bins, images.labels)
    return metrics


def softmax(row: Sequence[float]) -> list[float]:
    weights = [math.exp(x - max(row)) for x in row]
    return [w / sum(weights) for w in weights]


def assert_same(a: OrderedAccumulator, b: OrderedAccumulator) -> None:
    assert np.array_equal(a.confusion, b.confusion)
    np.testing.assert_allclose(a.nll_by_temperature, b.nll_by_temperature, rtol=1e-9, atol=1e-9)
    found, expected = a.result(), b.result()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == (None if value is None else pytest.approx(value, rel=1e-9, abs=1e-9)), name


@given(st.integers(0, 40), st.integers(0, 2**31), st.data())
@settings(max_examples=40)
def test_merging_is_associative_commutative_and_equals_adding_all_at_once(
    num_images: int, seed: int, data: st.DataObject
) -> None:
    images = drawn(num_images, seed)
    first, second = sorted(data.draw(st.tuples(st.integers(0, num_images), st.integers(0, num_images))))
    a, b, c = (measured(images.rows(s)) for s in (slice(0, first), slice(first, second), slice(second, None)))
    whole = measured(images)
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b), b.merge(c.merge(a))):
        assert_same(merged, whole)


def test_merging_leaves_its_operands_as_they_were() -> None:
    a, b = measured(drawn(10, 1)), measured(drawn(10, 2))
    before = (a.result(), b.result())
    merged = a.merge(b)
    merged.add(*_fields(drawn(10, 3)))
    assert (a.result(), b.result()) == before


def _fields(images: Images) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    return images.logits, images.bins, images.labels


def test_adding_in_batches_equals_adding_at_once() -> None:
    images, batched = drawn(50, 4), OrderedAccumulator(HEAD)
    for i in range(0, 50, 7):
        batched.add(*_fields(images.rows(slice(i, i + 7))))
    assert_same(batched, measured(images))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("head", [HEAD, LEVELS], ids=lambda h: h.name)
def test_every_number_agrees_with_its_definition(head: OrderedHead, temperature: float) -> None:
    images = drawn(300, 5, head)
    found = measured(images, head, temperature).result()
    k_bins, n = head.num_bins, 0
    nll = rps = mae = hits = near = 0.0
    recalls: dict[int, list[bool]] = {}
    observed = np.zeros((k_bins, k_bins))
    for logits, truth in zip(images.logits.tolist(), images.bins.tolist(), strict=True):
        if truth < 0:
            continue
        probs = softmax([x / temperature for x in logits])
        answer = max(range(k_bins), key=lambda k: probs[k])
        n += 1
        nll -= math.log(probs[truth])
        rps += sum((sum(probs[: k + 1]) - (1.0 if k >= truth else 0.0)) ** 2 for k in range(k_bins))
        mae += abs(sum(k * p for k, p in enumerate(probs)) - truth)
        hits += answer == truth
        near += abs(answer - truth) <= 1
        recalls.setdefault(truth, []).append(answer == truth)
        observed[truth, answer] += 1
    chance = np.array(
        [[observed[i].sum() * observed[:, j].sum() / n for j in range(k_bins)] for i in range(k_bins)]
    )
    cost = np.array([[(i - j) ** 2 / (k_bins - 1) ** 2 for j in range(k_bins)] for i in range(k_bins)])
    assert found["num_labelled"] == n < 300
    assert found["nll"] == pytest.approx(nll / n, rel=1e-9)
    assert found["rps"] == pytest.approx(rps / n, rel=1e-9)
    assert found["mae_bins"] == pytest.approx(mae / n, rel=1e-9)
    assert found["accuracy"] == pytest.approx(hits / n)
    assert found["within_1"] == pytest.approx(near / n)
    assert found["macro_recall"] == pytest.approx(np.mean([np.mean(r) for r in recalls.values()]))
    assert found["kappa"] == pytest.approx(1 - (cost * observed).sum() / (cost * chance).sum(), rel=1e-9)


def test_macro_recall_leaves_out_bins_that_do_not_occur() -> None:
    bins = np.array([0, 0, 0, 1])
    logits = 9.0 * np.eye(HEAD.num_bins)[[0, 0, 1, 1]]
    assert measured(Images(logits, bins, bins * 1.0)).result()["macro_recall"] == pytest.approx(
        (2 / 3 + 1) / 2
    )


@pytest.mark.parametrize("seed", range(3))
def test_spearman_with_ties_agrees_with_ranks_of_pandas(seed: int) -> None:
    import pandas as pd  # a second that other tests need not wait for

    images = drawn(200, seed)
    labelled = images.rows(images.bins >= 0)
    # Rounded logits tie in score too.
    coarse = Images(np.round(labelled.logits), labelled.bins, labelled.labels)
    doubled = Images(*(np.concatenate([x, x]) for x in _fields(coarse)))
    share = np.array(HEAD.counts) / sum(HEAD.counts or ())
    mid_rank = [share[:k].sum() + share[k] / 2 for k in range(HEAD.num_bins)]
    score = [float(np.dot(softmax(row), mid_rank)) for row in doubled.logits.tolist()]
    table = pd.DataFrame({"score": np.round(score, 12), "label": doubled.labels}).rank()
    assert measured(doubled).spearman() == pytest.approx(table["score"].corr(table["label"]), abs=1e-6)


def test_a_perfect_prediction_scores_one() -> None:
    bins = np.arange(40) % HEAD.num_bins
    logits = 200.0 * np.eye(HEAD.num_bins)[bins]
    found = measured(Images(logits, bins, bins * 7.0)).result()
    for name in ("spearman", "kappa", "accuracy", "within_1", "macro_recall"):
        assert found[name] == pytest.approx(1.0), name
    for name in ("nll", "rps", "mae_bins"):
        assert found[name] == pytest.approx(0.0, abs=1e-9), name


def test_a_reversed_prediction_has_spearman_and_kappa_of_minus_one() -> None:
    bins = np.arange(40) % HEAD.num_bins
    found = measured(
        Images(200.0 * np.eye(HEAD.num_bins)[HEAD.num_bins - 1 - bins], bins, bins * 7.0)
    ).result()
    assert found["spearman"] == pytest.approx(-1.0)
    assert found["kappa"] == pytest.approx(-1.0)


def test_permuted_labels_have_spearman_and_kappa_near_zero() -> None:
    images = drawn(4000, 6, missing=0.0)
    order = np.random.default_rng(0).permutation(4000)
    found = measured(Images(images.logits, images.bins[order], images.labels[order])).result()
    assert abs(found["spearman"] or 0.0) < 0.06  # 4 standard errors of 4,000 pairs
    assert abs(found["kappa"] or 0.0) < 0.06
    assert (measured(images).spearman() or 0.0) > 0.4


def test_images_without_a_label_change_nothing() -> None:
    images = drawn(60, 7, missing=0.5)
    labelled = images.bins >= 0
    assert 0 < labelled.sum() < 60
    assert_same(measured(images), measured(images.rows(labelled)))


def test_a_head_without_labels_says_so_and_nothing_else() -> None:
    images = drawn(8, 8, missing=1.0)
    metrics = measured(images)
    assert metrics.result() == OrderedAccumulator(HEAD).result() == {"num_labelled": 0}
    assert metrics.best_temperature() == 1.0
    assert results([metrics]) == {"bookmark": {"num_labelled": 0}}


def test_merging_with_a_worker_that_saw_no_label_changes_nothing() -> None:
    images = drawn(30, 9)
    assert_same(OrderedAccumulator(HEAD).merge(measured(images)), measured(images))


@pytest.mark.parametrize("num_bins", [2, 5, 15])
def test_the_constant_that_answers_uniform_train_shares_has_nll_of_ln_k(num_bins: int) -> None:
    head = OrderedHead(name="h", column="h", edges=tuple(range(1, num_bins)), counts=(100,) * num_bins)
    bins = np.random.default_rng(0).integers(0, num_bins, 50)
    found = measured(Images(np.zeros((50, num_bins)), bins, bins * 1.0), head).result()
    assert found["prior_nll"] == pytest.approx(math.log(num_bins))
    assert found["nll"] == pytest.approx(math.log(num_bins))


def test_constants_know_the_train_shares_only() -> None:
    bins = np.array([0, 0, 1, 2, 4, 4, 4, 3])
    found = measured(Images(np.zeros((8, 5)), bins, bins * 1.0)).result()
    share = np.array([0.30, 0.25, 0.20, 0.15, 0.10])
    assert found["prior_nll"] == pytest.approx(-np.log(share[bins]).mean())
    assert found["majority_accuracy"] == pytest.approx(2 / 8)  # bin 0 leads in train, not here
    # The median training row lies in bin 1.
    assert found["prior_mae_bins"] == pytest.approx(np.abs(bins - 1).mean())


def test_a_bin_without_training_rows_keeps_the_prior_finite() -> None:
    head = OrderedHead(name="h", column="h", edges=(1, 2), counts=(10, 0, 10))
    found = measured(Images(np.zeros((3, 3)), np.array([0, 1, 2]), np.arange(3.0)), head).result()
    assert math.isfinite(found["prior_nll"] or math.inf)


def calibrated(num_images: int, seed: int) -> Images:
    """Logits whose softmax is the true distribution of the bins."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(num_images, HEAD.num_bins))
    probs = np.array([softmax(row) for row in logits.tolist()])
    bins = (probs.cumsum(1) < rng.random((num_images, 1))).sum(1).clip(0, HEAD.num_bins - 1)
    return Images(logits, bins, bins * 1.0)


@pytest.mark.parametrize(
    "factor", [0.5, 4.0, *(pytest.param(other, marks=pytest.mark.slow) for other in (1.0, 2.0))]
)
def test_temperature_recovers_the_factor_that_logits_were_multiplied_by(factor: float) -> None:
    images = calibrated(40_000, 10)
    alone = measured(images).best_temperature()
    scaled = measured(Images(images.logits * factor, images.bins, images.labels)).best_temperature()
    assert scaled == pytest.approx(factor, rel=0.03)
    assert scaled / alone == pytest.approx(factor, rel=0.005)


@given(st.integers(1, 60), st.integers(0, 2**31), st.floats(0.05, 20), st.floats(-2, 3))
@settings(max_examples=60)
def test_the_fitted_temperature_never_costs_more_than_none(
    num_images: int, seed: int, scale: float, signal: float
) -> None:
    images = drawn(num_images, seed, missing=0.0, signal=signal)
    scaled = Images(images.logits * scale, images.bins, images.labels)
    before = measured(scaled)
    after = measured(scaled, temperature=before.best_temperature())
    assert 0 < before.best_temperature() < math.inf
    assert after.nll_sum <= before.nll_sum * 1.005 + 1e-9  # neighbours on the grid lie 5 % apart


def test_labels_beyond_float32_keep_their_rank() -> None:
    n = 64
    labels = np.int64(2_400_000_000) + np.arange(n)  # float32 steps by 256 here
    lean = np.linspace(-3, 3, n)[:, None] * np.arange(HEAD.num_bins)
    metrics = OrderedAccumulator(HEAD)
    metrics.add(lean, np.full(n, HEAD.num_bins - 1), labels)
    assert metrics.spearman() == pytest.approx(1.0)


def test_spearman_of_a_constant_is_none_not_nan() -> None:
    bins = np.arange(10) % 5
    assert measured(Images(np.zeros((10, 5)), bins, bins * 1.0)).spearman() is None
    assert (
        measured(Images(np.random.default_rng(0).normal(size=(10, 5)), bins, np.full(10, 3.0))).spearman()
        is None
    )


def test_kappa_is_none_where_everything_lies_in_one_bin() -> None:
    images = Images(9.0 * np.eye(5)[[2, 2]], np.array([2, 2]), np.array([1.0, 2.0]))
    assert measured(images).result()["kappa"] is None


def test_huge_logits_stay_finite() -> None:
    images = drawn(20, 11)
    found = measured(Images(images.logits * 1e6, images.bins, images.labels))
    assert np.isfinite(found.nll_by_temperature).all()
    assert math.isfinite(found.nll_sum)


def test_counts_are_judged_by_spearman_and_levels_by_kappa() -> None:
    assert (main_metric(HEAD), main_metric(LEVELS)) == ("spearman", "kappa")


def test_the_calibration_error_is_none_for_honest_probabilities_and_the_excess_for_sure_ones() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 5))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    truth = (probs.cumsum(1) < rng.random((20_000, 1))).sum(1)
    metrics = OrderedAccumulator(HEAD)
    metrics.add(logits, truth, truth.astype(float))
    honest, sure = metrics.ece({"temperature": 1.0}), metrics.ece({"temperature": 0.01})
    assert honest is not None
    assert honest < 0.015
    assert sure == pytest.approx(1 - np.trace(metrics.confusion) / 20_000, abs=0.02)
    assert metrics.result()["ece"] == honest


def test_the_calibration_error_of_merged_workers_is_that_of_all_images() -> None:
    rng = np.random.default_rng(1)
    logits, truth = rng.normal(size=(90, 5)) * 3, rng.integers(0, 5, 90)
    whole, first, second = OrderedAccumulator(HEAD), OrderedAccumulator(HEAD), OrderedAccumulator(HEAD)
    for metrics, rows in ((whole, slice(None)), (first, slice(0, 30)), (second, slice(30, None))):
        metrics.add(logits[rows], truth[rows], truth[rows].astype(float))
    softer = {"temperature": 1.3}
    assert first.merge(second).ece(softer) == pytest.approx(whole.ece(softer))
    assert OrderedAccumulator(HEAD).ece({}) is None


def test_calibrated_sums_have_the_least_nll_and_leave_the_original_as_it_was() -> None:
    images = calibrated(2000, 3)
    raw = measured(Images(images.logits * 4, images.bins, images.labels))
    before, found = raw.result(), raw.calibrated().result()
    assert found["nll"] == pytest.approx(raw.least_nll)
    assert raw.least_nll < (before["nll"] or 0)
    assert found["ece"] == raw.ece({"temperature": raw.best_temperature()})
    assert (found["ece"] or 1) < 0.1 * (before["ece"] or 0)
    assert raw.result() == before
    saved = OrderedAccumulator(HEAD)  # as an evaluation of the saved model counts: outputs come calibrated
    saved.add(4 * images.logits / raw.best_temperature(), images.bins, images.labels)
    for name in ("spearman", "rps", "mae_bins", "accuracy"):
        assert found[name] == pytest.approx(saved.result()[name], abs=1e-6), name
    assert OrderedAccumulator(HEAD).calibrated().result() == {"num_labelled": 0}
