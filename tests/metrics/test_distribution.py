"""The numbers of votes: checked against scipy, against simulated truth, and against each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import entropy, wasserstein_distance

from pix2score.metrics.distribution import DistributionNumbers, DistributionRows
from pix2score.metrics.distribution_measures import DistributionAnswers, costs_by_image
from pix2score.metrics.soft_temperature import soft_temperature
from pix2score.metrics.verdict import head_verdict
from pix2score.metrics.vote_noise import dealt_half, vote_noise
from tests.support.votes import HEAD, answers_of, votes

NUMBERS = DistributionNumbers()


def test_costs_are_those_of_scipy() -> None:
    answers = DistributionAnswers.of(answers_of(20))
    costs = costs_by_image(answers)
    for i, (said, true) in enumerate(zip(answers.probs, answers.shares, strict=True)):
        assert costs["kl"][i] == pytest.approx(entropy(true, said), abs=1e-6)
        assert costs["nll"][i] == pytest.approx(entropy(true, said) + entropy(true), abs=1e-6)
        assert costs["emd"][i] == pytest.approx(
            wasserstein_distance(HEAD.class_values, HEAD.class_values, said, true), abs=1e-6
        )


def test_an_answer_that_is_the_votes_themselves_costs_their_entropy_and_correlates_fully() -> None:
    answers = answers_of(200)
    shares = answers.truth[:, :-1].astype(np.float64)
    perfect = replace(answers, outputs=np.log(shares.clip(1e-9)))
    found = {name: measure(np.ones(200)) for name, measure in NUMBERS.measures(perfect).items()}
    assert found["pearson"] == pytest.approx(1) and found["std_spearman"] == pytest.approx(1, abs=1e-3)
    assert found["kl"] == pytest.approx(0, abs=1e-6) and found["emd"] == pytest.approx(0, abs=1e-6)
    assert found["nll"] == pytest.approx(entropy(shares, axis=1).mean(), abs=1e-6)


def test_the_constant_costs_one_in_the_loss_that_epochs_are_ranked_by() -> None:
    answers = answers_of(500)
    rows = DistributionRows(answers.head)
    rows.add(np.tile(answers.head.initial_bias(), (500, 1)), answers.truth, answers.label)
    assert rows.relative_loss() == pytest.approx(1, abs=2e-3)
    knowing = DistributionRows(answers.head)
    knowing.add(answers.outputs, answers.truth, answers.label)
    assert knowing.relative_loss() < 0.9


def test_merged_rows_have_the_numbers_of_all_and_missing_labels_count_for_nothing() -> None:
    answers = answers_of(100)
    target, label = answers.truth.copy(), answers.label.copy()
    target[:10], label[:10] = np.nan, np.nan
    parts = [DistributionRows(answers.head) for _ in range(2)]
    for part, rows in zip(parts, (slice(0, 40), slice(40, 100)), strict=True):
        part.add(answers.outputs[rows], target[rows], label[rows])
    whole = DistributionRows(answers.head)
    whole.add(answers.outputs[10:], target[10:], label[10:])
    merged = parts[0].merge(parts[1])
    assert merged.num_labelled == 90
    assert merged.result() == pytest.approx(whole.result())
    assert DistributionRows(answers.head).result() == {"num_labelled": 0}


def test_the_fitted_temperature_is_that_of_least_cross_entropy() -> None:
    answers = answers_of(300)
    rows = DistributionRows(answers.head)
    rows.add(3 * answers.outputs, answers.truth, answers.label)
    shares, weight = answers.truth[:, :-1].astype(np.float64), np.ones(300)

    def cost(temperature: float) -> float:
        logits = answers.outputs / temperature
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return float(-(shares * log_probs).sum())

    best = soft_temperature(answers.outputs, shares, weight)
    assert cost(best) < min(cost(best * 1.02), cost(best / 1.02))
    assert soft_temperature(3 * answers.outputs, shares, weight) == pytest.approx(3 * best, rel=1e-6)
    assert rows.calibration()["temperature"] > 2
    calibrated = rows.calibrated().result()["nll"]
    assert calibrated is not None and calibrated < (rows.result()["nll"] or 0)


def test_votes_dealt_into_halves_are_all_there_and_half_of_them() -> None:
    given = votes(200).astype(np.int64)
    half = dealt_half(given, np.random.default_rng(0))
    assert (half >= 0).all() and (half <= given).all()
    assert (half.sum(axis=1) == given.sum(axis=1) // 2).all()
    expected = given * (half.sum(axis=1) / given.sum(axis=1))[:, None]
    assert abs((half - expected).mean(axis=0)).max() < 0.15


def test_the_ceiling_is_what_the_truth_behind_the_votes_reaches() -> None:
    rng = np.random.default_rng(3)
    shares = rng.dirichlet((1.0, 2.0, 1.0), 20_000)
    given = rng.multinomial(rng.integers(5, 40, 20_000), shares).astype(np.float64)
    found = vote_noise(HEAD, given)
    truth, label = HEAD.moments(shares), HEAD.moments(given / given.sum(axis=1, keepdims=True))
    assert found["pearson_ceiling"] == pytest.approx(np.corrcoef(truth[0], label[0])[0, 1], abs=0.01)
    assert found["mse_floor"] == pytest.approx(((truth[0] - label[0]) ** 2).mean(), rel=0.05)
    of_shares = given / given.sum(axis=1, keepdims=True)
    assert set(vote_noise(HEAD, of_shares).values()) == {None}


def test_a_verdict_has_every_number_beside_its_references_and_its_ceiling() -> None:
    answers = answers_of(200)
    totals = DistributionRows(answers.head)
    totals.add(answers.outputs, answers.truth, answers.label)
    guess = NUMBERS.ridge_target(answers.head, answers.truth)
    verdict = head_verdict(answers, totals, {"temperature": 1.3}, guess)
    names = {*NUMBERS.lower_is_better, *NUMBERS.higher_is_better}
    assert (
        names <= verdict.numbers.keys() and names <= verdict.ridge.keys() and names <= verdict.interval.keys()
    )
    assert {"nll", "kl", "emd", "mse"} == verdict.constant.keys()
    assert verdict.notes["temperature"] == 1.3 and 0.5 < verdict.notes["pearson_ceiling"] < 1


def test_misses_and_scores_are_of_the_mean() -> None:
    answers = answers_of(30)
    head = answers.head
    said, true = (head.moments(x)[0] for x in (np.exp(answers.outputs), answers.truth[:, :-1]))
    np.testing.assert_allclose(NUMBERS.misses(head, answers.outputs, answers.truth), np.abs(said - true))
    score = NUMBERS.score(head, answers.outputs)
    assert (np.argsort(score, kind="stable") == np.argsort(said, kind="stable")).all()
    same = NUMBERS.change(head, answers.outputs, answers.outputs)
    assert same["mean_prob_change"] == 0 and same["same_bin"] == 1
