"""Measures mean what they are called, under any weights; intervals are by group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.heads.spec import HeadSpec
from pix2score.metrics import measures as quality
from pix2score.metrics import verdict
from pix2score.metrics.accumulate import HeadMetrics
from pix2score.metrics.measures import Answers, Guesses
from tests.support.torch_helpers import COUNT_HEAD, LEVEL_HEAD


def answers_of(
    num: int, seed: int = 0, head: HeadSpec = COUNT_HEAD, signal: float = 2.0, groups: int = 10**9
) -> Answers:
    """Answers that know something: the true bin's logit is raised by ``signal``."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, head.num_bins, num)
    logits = rng.normal(size=(num, head.num_bins))
    logits[np.arange(num), truth] += signal
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    label = truth + rng.integers(0, 3, num) / 4  # with ties
    return Answers(head, log_probs, truth, label, rng.integers(0, groups, num))


def repeated(answers: Answers, times: npt.NDArray[np.int64]) -> Answers:
    parts = (answers.log_probs, answers.truth, answers.label, answers.group)
    return Answers(answers.head, *(np.repeat(part, times, axis=0) for part in parts))


@pytest.mark.parametrize("head", [COUNT_HEAD, LEVEL_HEAD], ids=lambda h: h.name)
def test_shared_numbers_are_those_of_the_accumulator(head: HeadSpec) -> None:
    answers = answers_of(300, head=head)
    total = HeadMetrics(head)
    total.add(answers.log_probs, answers.truth, answers.label)
    found, wanted = quality.values(quality.measures(answers), 300), total.result()
    shared = set(found) & set(wanted)
    assert shared >= {"spearman", "kappa", "accuracy", "within_1", "macro_recall", "mae_bins", "nll", "rps"}
    for name in shared:
        assert found[name] == pytest.approx(wanted[name], abs=1e-9), name


@given(st.integers(0, 50), st.lists(st.integers(0, 3), min_size=30, max_size=30).filter(lambda w: sum(w) > 5))
@settings(max_examples=60, deadline=None)
def test_a_weight_counts_an_image_so_many_times(seed: int, weights: list[int]) -> None:
    answers, times = answers_of(30, seed), np.array(weights)
    weighted = quality.measures(answers)
    plain = quality.values(quality.measures(repeated(answers, times)), int(times.sum()))
    for name, measure in weighted.items():
        if not name.startswith(("auc", "lift")):  # which images are the top is decided once, before any draw
            assert measure(times.astype(float)) == pytest.approx(plain[name], abs=1e-9), name


def test_auc_is_the_share_of_pairs_in_the_right_order_and_lift_the_gain_among_the_best_scored() -> None:
    answers = answers_of(200, signal=1.0)
    positive = answers.label >= np.quantile(answers.label, 0.95)
    above, below = answers.score[positive], answers.score[~positive]
    pairs = (above[:, None] > below[None, :]).mean() + (above[:, None] == below[None, :]).mean() / 2
    found = quality.values(quality.measures(answers), 200)
    assert found["auc_top5"] == pytest.approx(pairs)
    best = np.argsort(-answers.score)[:10]
    assert found["lift_top5"] == pytest.approx(positive[best].mean() / positive.mean())
    assert 0.5 < pairs < 1


def test_perfect_answers_reach_the_ends_of_every_scale() -> None:
    answers = answers_of(400, signal=60.0)
    found = quality.values(quality.measures(answers), 400)
    for name in ("kappa", "accuracy", "within_1", "macro_recall"):
        assert found[name] == pytest.approx(1), name
    for name in ("mae_bins", "nll", "rps", "ece"):
        assert found[name] == pytest.approx(0, abs=1e-6), name


def test_the_calibration_error_of_too_sure_answers_shrinks_with_the_right_temperature() -> None:
    answers = answers_of(4000, signal=1.0)  # exactly calibrated: logits are normal with a raised truth
    sharp = quality.softened(answers.log_probs, 4.0)
    correct = answers.log_probs.argmax(axis=1) == answers.truth
    before = quality.calibration_error(np.exp(sharp).max(axis=1), correct, np.ones(4000))
    after = quality.calibration_error(answers.probs.max(axis=1), correct, np.ones(4000))
    assert before is not None
    assert after is not None
    assert before > 0.2 > 3 * after
    np.testing.assert_allclose(quality.softened(sharp, 0.25), answers.log_probs, atol=1e-9)


def test_constants_are_the_prior_the_median_and_the_majority() -> None:
    truth = np.array([0, 0, 1, 3])
    found = quality.constant_measures(COUNT_HEAD, truth)  # train counts 40 30 20 10
    assert found["accuracy"] == 0.5
    assert found["mae_bins"] == pytest.approx((1 + 1 + 0 + 2) / 4)
    assert found["nll"] == pytest.approx(-np.log([0.4, 0.4, 0.3, 0.1]).mean())


def test_intervals_widen_when_images_come_in_groups() -> None:
    loose, grouped = answers_of(400), answers_of(400)
    grouped = Answers(
        grouped.head,
        grouped.log_probs,
        grouped.truth,
        grouped.label,
        np.sort(grouped.truth * 3 + np.arange(400) % 3),
    )
    wide = quality.intervals(
        {"accuracy": quality.measures(grouped)["accuracy"]}, quality.draws(grouped.group)
    )["accuracy"]
    narrow = quality.intervals({"accuracy": quality.measures(loose)["accuracy"]}, quality.draws(loose.group))[
        "accuracy"
    ]
    value = quality.measures(loose)["accuracy"](np.ones(400))
    assert wide
    assert narrow
    assert value is not None
    assert narrow[0] < value < narrow[1]
    assert narrow[1] - narrow[0] == pytest.approx(4 * np.sqrt(value * (1 - value) / 400), rel=0.25)


def test_draws_take_whole_groups() -> None:
    group = np.array([5, 5, 9, 9, 9, -1])
    for weight in quality.draws(group, num_draws=20):
        assert weight[0] == weight[1]
        assert weight[2] == weight[3] == weight[4]
        assert weight[0] + weight[2] + weight[5] == 3


def test_a_reference_of_plain_numbers_is_measured_too() -> None:
    answers = answers_of(100)
    guesses = Guesses(COUNT_HEAD, answers.truth.astype(float) + 0.2, answers.truth, answers.label)
    found = quality.values(quality.guess_measures(guesses), 100)
    assert found["accuracy"] == 1
    assert found["mae_bins"] == pytest.approx(
        np.minimum(answers.truth + 0.2, 3).mean() - answers.truth.mean()
    )
    assert "nll" not in found


@pytest.mark.parametrize(("num", "reliable"), [(49, False), (50, True), (1, False)])
def test_fewer_than_fifty_labels_are_marked_and_crash_nothing(num: int, reliable: bool) -> None:
    found = verdict.head_verdict(answers_of(num), 1.0, None)
    assert found["reliable"] is reliable
    assert bool(found["interval"]) is reliable
    assert verdict.curves(answers_of(num), 1.5)["confusion"]
    assert verdict.compare(answers_of(num), answers_of(num))["verdict"] == (
        "no difference" if reliable else "too few labels"
    )


def test_no_label_at_all_is_said() -> None:
    assert verdict.head_verdict(answers_of(0), 1.0, None) == {"num_labelled": 0, "reliable": False}


def test_a_better_model_is_called_better_and_its_rival_worse() -> None:
    good = answers_of(300, signal=2.0)
    bad = Answers(good.head, good.log_probs[:, ::-1].copy(), good.truth, good.label, good.group)
    assert verdict.compare(good, bad)["verdict"] == "better"
    assert verdict.compare(bad, good)["verdict"] == "worse"
    assert verdict.compare(good, good)["spearman"]["interval"] == [0, 0]


@pytest.mark.parametrize(
    ("verdicts", "better"),
    [
        (["better", "no difference"], True),
        (["better", "worse"], False),
        (["no difference"], False),
        (["too few labels"], False),
    ],
)
def test_a_candidate_is_better_if_it_gains_somewhere_and_loses_nowhere(
    verdicts: list[str], better: bool
) -> None:
    assert verdict.is_better({str(i): {"verdict": v} for i, v in enumerate(verdicts)}) is better


def test_equal_scores_count_as_half_in_the_auc() -> None:
    flat = np.full((8, 4), np.log(0.25))
    label = np.array([0, 0, 0, 0, 0, 0, 0, 9.0])
    answers = Answers(COUNT_HEAD, flat, np.zeros(8, np.int64), label, np.arange(8))
    assert quality.measures(answers)["auc_top20"](np.ones(8)) == 0.5
