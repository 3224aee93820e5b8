"""What logits mean: probabilities, and one number under them."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pix2score.heads.kinds import head_from_dict
from pix2score.heads.ordered import OrderedHead
from pix2score.heads.probabilities import log_softmax
from pix2score.metrics.kinds import numbers_of

HEAD = OrderedHead(name="h", column="c", edges=(10, 30), counts=(6, 3, 1), typical=(4, 12, 50))


def test_log_softmax_is_the_logarithm_of_shares_that_add_to_one_however_large_the_logits() -> None:
    logits = np.array([[0.0, 1.0, 2.0], [1e6, -1e6, 0.0], [700.0, 700.0, 700.0]])
    found = log_softmax(logits)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    np.testing.assert_allclose(found[0], np.log(np.exp(logits[0]) / np.exp(logits[0]).sum()))
    assert found[1].tolist() == [0, -2e6, -1e6]


def test_score_and_expected_are_means_under_the_calibrated_probabilities() -> None:
    found = HEAD.answer(np.log(np.array([[0.04, 0.16, 0.36]], dtype=np.float32)), {"temperature": 2.0})
    np.testing.assert_allclose(found.probs, [[1 / 6, 2 / 6, 3 / 6]], rtol=1e-6)
    assert found.bin.tolist() == [2]
    assert found.score[0] == pytest.approx((0.3 + 2 * 0.75 + 3 * 0.95) / 6)
    assert found.expected[0] == pytest.approx((4 + 2 * 12 + 3 * 50) / 6)


def test_the_median_is_the_bin_in_which_half_of_the_probability_is_reached() -> None:
    probs = np.array([[0.6, 0.3, 0.1], [0.3, 0.3, 0.4], [0.1, 0.2, 0.7], [0.5, 0.0, 0.5]])
    found = HEAD.answer(np.log(np.maximum(probs, 1e-30)).astype(np.float32), {})
    assert found.median.tolist()[:3] == [0, 1, 2]
    assert found.median.dtype == np.int16
    assert found.bin.tolist()[1] == 2  # the most probable one says more of it than there is


def test_heads_learnt_from_now_on_have_a_median_and_older_ones_keep_their_columns() -> None:
    old = OrderedHead(name="h", column="c", edges=(10, 30), counts=(4, 3, 3), typical=(4, 12, 50))
    assert "has_median" not in old.to_dict()
    assert head_from_dict(old.to_dict()) == old
    assert [field.name for field in old.fields()] == ["h_bin", "h_probs", "h_score", "h_expected"]
    new = OrderedHead(name="h", column="c", edges=(10, 30)).fitted(
        edges=(10, 30), counts=(4, 3, 3), typical=(4, 12, 50)
    )
    assert head_from_dict(new.to_dict()) == new
    answer = new.answer(np.zeros((2, 3), np.float32), {})
    assert list(new.columns(answer)) == [field.name for field in new.fields()]
    assert new.fields()[-1].name == "h_median"
    assert new.plain(answer, 0)["median"] == 1


def test_a_night_is_told_by_scores_where_one_bin_is_the_most_probable_of_all() -> None:
    """Half of the labels tie in the first bin: it is the best answer, but not by as much everywhere."""
    logits = np.log(
        np.array([[0.60, 0.30, 0.10], [0.45, 0.35, 0.20], [0.34, 0.33, 0.33], [0.10, 0.20, 0.70]])
    )
    head = OrderedHead(name="h", column="c", edges=(10, 30), counts=(4, 3, 3), typical=(4, 12, 50))
    answer = head.answer(logits.astype(np.float32), {})
    assert answer.bin.tolist() == [0, 0, 0, 2]
    rows = pa.table({"h_score": pa.array([*answer.score.tolist(), None], pa.float32())})
    assert [round(float(s), 2) for s in answer.score] == [0.37, 0.45, 0.53, 0.73]
    assert head.histogram(rows).tolist() == [1, 2, 1]
    constant = pa.table({"h_score": np.float32([0.0, 0.4, 0.6999, 1.0])})
    assert head.histogram(constant).tolist() == [1, 2, 1]


def test_galleries_are_ordered_by_the_score_that_rows_have() -> None:
    logits = np.log(np.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]], dtype=np.float32))
    answer = HEAD.answer(logits, {})
    found = numbers_of(HEAD).score(HEAD, HEAD.measured(answer))
    np.testing.assert_allclose(found, answer.score, rtol=1e-5)


def test_logits_that_are_not_finite_give_finite_answers() -> None:
    found = HEAD.answer(np.array([[np.nan, np.inf, -np.inf]], dtype=np.float32), {})
    assert all(np.isfinite(part).all() for part in (found.probs, found.score, found.expected))
