"""Numbers of tags: against scikit-learn's, merged over workers, and linearised against counted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, f1_score

from pix2score.heads.tags import TagsHead, probabilities
from pix2score.metrics.intervals import resamples
from pix2score.metrics.protocol import Answers
from pix2score.metrics.tag_accumulate import TagAccumulator
from pix2score.metrics.tag_histograms import (
    CENTRES,
    EDGES,
    NUM_STEPS,
    average_precision,
    break_even,
    fit_calibration,
    pair_error,
    steps_of,
    steps_of_guesses,
)
from pix2score.metrics.tags import TagNumbers

NUM_TAGS, NUM = 12, 600
Logits = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int8]


def drawn(seed: int = 0, num: int = NUM) -> tuple[Logits, Targets]:
    """Calibrated logits of tags from frequent to rare, and what is true; the last image is not tagged."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(np.linspace(-0.5, -6, NUM_TAGS), 1.5, (num, NUM_TAGS)).astype(np.float32)
    target = (rng.random(logits.shape) < probabilities(logits)).astype(np.int8)
    target[-1] = -1
    return logits, target


def head_of(target: Targets) -> TagsHead:
    found = target[target[:, 0] >= 0]
    counts = tuple(int(n) for n in found.sum(0))
    names = tuple(f"t{i}" for i in range(target.shape[1]))
    return TagsHead(name="tag", column="tags", tags=names, counts=counts, num_tagged=len(found))


def added(logits: Logits, target: Targets, head: TagsHead | None = None) -> TagAccumulator:
    found = TagAccumulator(head or head_of(target))
    for part in np.array_split(np.arange(len(logits)), 3):
        found.add(logits[part], target[part], np.zeros(len(part)))
    return found


def answers(logits: Logits, target: Targets, **calibration: object) -> Answers:
    labelled = target[:, 0] >= 0
    groups = np.arange(len(target)) // 3
    rows = (logits[labelled].astype(np.float64), target[labelled], np.zeros(labelled.sum()), groups[labelled])
    return Answers(head_of(target), *rows, calibration)


def test_numbers_are_those_of_scikit_learn() -> None:
    logits, target = drawn()
    truth, said = target[:-1], logits[:-1]
    result = added(logits, target).result()
    assert result["num_labelled"] == NUM - 1
    enough = truth.sum(0) >= 10
    assert 3 < enough.sum() < NUM_TAGS
    exact = average_precision_score(truth[:, enough], said[:, enough], average="macro")
    assert result["map"] == pytest.approx(exact, abs=0.01)
    rounded = steps_of(said)
    of_steps = average_precision_score(truth[:, enough], rounded[:, enough], average="macro")
    assert result["map"] == pytest.approx(of_steps, rel=1e-9)
    at = np.sort(said.ravel())[-truth.sum()]
    assert result["micro_f1"] == pytest.approx(f1_score(truth, said >= at, average="micro"), abs=0.005)
    best = np.argsort(-said, axis=1)[:, :5]
    assert result["precision_5"] == pytest.approx(np.take_along_axis(truth, best, 1).mean())
    prob = probabilities(said.astype(np.float64))
    nll = -np.where(truth == 1, np.log(prob), np.log(1 - prob)).sum(1).mean()
    assert result["nll"] == pytest.approx(nll, rel=1e-6)
    assert result["ece"] is not None
    assert result["ece"] < 0.03  # the logits are calibrated


def test_workers_merge_to_one_and_rows_without_a_label_count_nothing() -> None:
    logits, target = drawn()
    head, half = head_of(target), NUM // 2
    whole = added(logits, target)
    merged = added(logits[:half], target[:half], head).merge(added(logits[half:], target[half:], head))
    assert merged.result() == pytest.approx(whole.result())
    assert merged.calibration() == pytest.approx(whole.calibration())
    nothing = added(logits[-1:], target[-1:], head)
    assert nothing.result() == {"num_labelled": 0}
    assert nothing.ece({}) is None
    assert set(nothing.calibration()["thresholds"]) == {0.5}
    assert whole.merge(nothing).result() == whole.result()


def test_calibration_is_the_logistic_regression_of_all_pairs() -> None:
    logits, target = drawn()
    worse = logits * 2 - 3
    found = added(worse, target).calibration()
    exact = LogisticRegression(C=np.inf).fit(worse[:-1].reshape(-1, 1), target[:-1].ravel())
    assert found["slope"] == pytest.approx(exact.coef_[0, 0], rel=0.02)
    assert found["offset"] == pytest.approx(exact.intercept_[0], abs=0.05)
    assert added(worse, target).relative_loss() == pytest.approx(
        added(logits, target).relative_loss(), rel=0.01
    )
    calibrated = added(worse, target).calibrated().result()
    assert calibrated["nll"] == pytest.approx(added(logits, target).result()["nll"], rel=0.01)
    assert calibrated["ece"] is not None
    assert calibrated["ece"] < 0.03 < (added(worse, target).ece({}) or 0)


@pytest.mark.parametrize("scale", [-3.0, 0.0, 1e-3, 200.0])
def test_calibration_stays_finite_and_rising_whatever_the_outputs(scale: float) -> None:
    logits, target = drawn()
    found = added(logits * np.float32(scale), target).calibration()
    assert 0.05 <= found["slope"] <= 20
    assert np.isfinite(found["offset"])
    assert all(0 < threshold < 1 for threshold in found["thresholds"])
    assert fit_calibration(np.zeros(NUM_STEPS), np.ones(NUM_STEPS)) == (1.0, 0.0)


def test_thresholds_are_of_the_best_f1_and_of_rare_tags_nearer_to_that_of_all() -> None:
    logits, target = drawn()
    target[:, -1] = 0
    target[:10, -1], logits[:, -1] = 1, -6
    logits[:10, -1] = 6
    found = added(logits, target).calibration()
    at = np.asarray(found["thresholds"])
    prob = probabilities(found["slope"] * logits[:-1] + found["offset"])
    best = max(f1_score(target[:-1, 0], prob[:, 0] >= t) for t in np.linspace(0.01, 0.99, 99))
    assert f1_score(target[:-1, 0], prob[:, 0] >= at[0]) == pytest.approx(best, abs=0.01)
    said = (prob >= found["threshold"]).sum()
    assert said == pytest.approx((target[:-1] == 1).sum(), rel=0.02)
    own = found["slope"] * EDGES[steps_of(np.float32(6.0))] + found["offset"]
    of_all = np.log(found["threshold"] / (1 - found["threshold"]))
    assert at[-1] == pytest.approx(probabilities((own + of_all) / 2), rel=0.01)  # 10 of the 20 that suffice


def test_measures_are_the_numbers_of_the_sums() -> None:
    logits, target = drawn()
    thresholds = added(logits, target).calibration()["thresholds"]
    found = TagNumbers().measures(answers(logits, target, thresholds=thresholds))
    ones = np.ones(NUM - 1)
    totals = replace_applied(added(logits, target), thresholds).result()
    for name in ("micro_f1", "map", "map_head", "map_tail", "precision_5", "ece"):
        assert found[name](ones) == pytest.approx(totals[name], rel=1e-5), name
    assert found["nll"](ones) == pytest.approx(added(logits, target).result()["nll"])
    assert found["macro_f1"](ones) == pytest.approx(totals["macro_f1"], abs=0.01)
    enough = target[:-1].sum(0) >= 10
    exact = f1_score(
        target[:-1][:, enough], (probabilities(logits[:-1]) >= thresholds)[:, enough], average="macro"
    )
    assert found["macro_f1"](ones) == pytest.approx(exact)


def replace_applied(totals: TagAccumulator, thresholds: list[float]) -> TagAccumulator:
    totals.applied = {"slope": 1.0, "offset": 0.0, "thresholds": thresholds}
    return totals


def test_resampled_average_precision_follows_the_one_that_is_counted() -> None:
    logits, target = drawn(num=1500)
    rows = answers(logits, target)
    measure = TagNumbers().measures(rows)["map"]
    steps, truth = steps_of(rows.outputs), rows.truth
    chosen = np.flatnonzero(truth.sum(0) >= 10)

    def counted(w: npt.NDArray[np.float64]) -> float:
        true, num = (
            np.stack([np.bincount(steps[:, t], w * part[:, t], NUM_STEPS) for t in chosen])
            for part in (truth, np.ones_like(truth))
        )
        return float(average_precision(true, num).mean())

    weights = resamples(rows.group, num=40)
    fast, slow = np.array([measure(w) for w in weights]), np.array([counted(w) for w in weights])
    assert np.corrcoef(fast, slow)[0, 1] > 0.97
    assert fast.std() == pytest.approx(slow.std(), rel=0.2)


def test_references_are_measured_in_the_same_way() -> None:
    logits, target = drawn()
    rows, numbers = answers(logits, target), TagNumbers()
    constant, ones = numbers.constant(rows), np.ones(NUM - 1)
    prior = np.broadcast_to(np.log(rows.head.prevalences / (1 - rows.head.prevalences)), logits.shape)  # type: ignore[attr-defined]
    same = numbers.measures(answers(prior.astype(np.float32), target))
    for name in ("map", "precision_5", "nll"):
        assert constant[name] == pytest.approx(same[name](ones), rel=1e-4), name
    assert constant["micro_f1"] == pytest.approx(same["micro_f1"](ones), abs=0.03)
    guess = numbers.guess_measures(rows, np.asarray(probabilities(rows.outputs)))
    model = numbers.measures(rows)
    assert guess["micro_f1"](ones) == pytest.approx(model["micro_f1"](ones), abs=0.01)
    assert guess["map"](ones) == pytest.approx(model["map"](ones), abs=0.02)
    assert guess["precision_5"](ones) == model["precision_5"](ones)
    assert "nll" not in guess


def test_tags_on_too_few_images_leave_numbers_undefined() -> None:
    logits, target = drawn(num=8)
    rows = answers(logits, target)
    found = TagNumbers().measures(rows)
    assert found["map"](np.ones(7)) is None
    assert found["macro_f1_tail"](np.ones(7)) is None
    assert TagNumbers().constant(rows)["map"] is None
    none = np.zeros_like(target[:-1])
    assert TagNumbers().measures(replace(rows, truth=none))["micro_f1"](np.ones(7)) is None
    assert TagNumbers().curves(rows, {})["best"] == []


def test_curves_fall_and_name_the_best_and_the_worst_tags() -> None:
    logits, target = drawn()
    rng = np.random.default_rng(1)
    logits[:, 1] = rng.normal(size=NUM)  # knows nothing of tag 1
    curves = TagNumbers().curves(answers(logits, target), {})
    recall = [point["recall"] for point in curves["precision_recall"]]
    assert recall == sorted(recall)
    assert recall[-1] == 1
    best, worst = ([tag["average_precision"] for tag in curves[key]] for key in ("best", "worst"))
    assert best == sorted(best, reverse=True)
    assert worst == sorted(worst)
    assert worst[-1] <= best[-1]
    assert not {tag["tag"] for tag in curves["best"]} & {tag["tag"] for tag in curves["worst"]}


def test_steps_keep_the_order_of_logits_and_of_guesses() -> None:
    assert steps_of(np.array([-np.float32(99), -15, -14.9, 0, 9.99, 1e9])).tolist() == [
        0,
        0,
        0,
        120,
        199,
        199,
    ]
    assert steps_of(CENTRES).tolist() == list(range(NUM_STEPS))
    guess = np.array([-9, -0.1, 0.0, 0.001, 0.01, 0.1, 1.0, 9])
    found = steps_of_guesses(guess).astype(int)
    assert (np.diff(found) >= 0).all()
    assert (np.diff(found)[1:6] > 0).all()


def test_calibration_error_is_that_of_pairs_that_are_sure_by_tenths() -> None:
    prob = np.array([0.05, 0.12, 0.18, 0.95])
    num, true = np.array([1000.0, 10, 10, 20]), np.array([900.0, 2, 2, 13])
    tenths = abs(0.12 * 10 + 0.18 * 10 - 4) + abs(0.95 * 20 - 13)
    assert pair_error(prob, num, true) == pytest.approx(tenths / 40)
    assert pair_error(prob[:1], num[:1], true[:1]) is None


def test_at_the_break_even_as_many_are_said_as_are_true() -> None:
    true, num = np.zeros(NUM_STEPS), np.zeros(NUM_STEPS)
    true[[150, 100]], num[[150, 100, 50]] = [3, 1], [4, 4, 92]
    f1, logit = break_even(true, num)
    assert f1 == pytest.approx(3 / 4)
    assert EDGES[101] <= logit <= EDGES[150]
    assert break_even(np.zeros(NUM_STEPS), num) == (None, 0.0)
