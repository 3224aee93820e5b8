"""How heads go together: rank correlations, checked against scipy, over the rows that have both."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from pix2score.metrics.correlation import MIN_ROWS, correlations, has_score, spearman_matrix
from pix2score.metrics.kinds import numbers_of
from tests.support.every_head import FITTED


def columns(num: int = 500) -> list[np.ndarray]:
    """Three numbers that go together in part, with ties."""
    rng = np.random.default_rng(0)
    one = rng.normal(size=num)
    return [one, np.round(one + rng.normal(size=num)), -one + 0.1 * rng.normal(size=num)]


def test_every_pair_is_scipys_over_the_rows_that_have_both() -> None:
    one, other, reverse = columns()
    one[::7], other[::5] = np.nan, np.nan
    found = spearman_matrix([one, other, reverse])
    for i, a in enumerate((one, other, reverse)):
        for j, b in enumerate((one, other, reverse)):
            both = ~np.isnan(a) & ~np.isnan(b)
            assert found.num_rows[i][j] == both.sum()
            assert found.spearman[i][j] == pytest.approx(spearmanr(a[both], b[both]).statistic)
    assert found.spearman[0][0] == pytest.approx(1)
    assert found.spearman[0][2] < -0.9  # type: ignore[operator]


def test_constants_and_few_rows_have_none() -> None:
    one, other, _ = columns()
    other[MIN_ROWS - 1 :] = np.nan
    found = spearman_matrix([one, other, np.ones(500)])
    assert found.spearman[0][1] is None
    assert found.num_rows[0][1] == MIN_ROWS - 1
    assert found.spearman[0][2] is None


def test_labels_stand_beside_answers_where_two_heads_have_some() -> None:
    one, other, reverse = columns()
    found = correlations({"a": one, "b": other, "c": reverse}, {"a": one, "c": reverse})
    assert found is not None and found.labels is not None
    assert found.heads == ("a", "b", "c")
    assert found.labels.spearman[0][2] == found.answers.spearman[0][2]
    assert found.labels.spearman[0][1] is None
    assert json.loads(json.dumps(found.to_dict()))["labels"]["num_rows"][0] == [500, 0, 500]
    alone = correlations({"a": one, "b": other}, {"a": one})
    assert alone is not None and alone.labels is None
    assert correlations({"a": one}, {"a": one}) is None


def test_heads_without_an_order_are_left_out() -> None:
    assert {kind for kind, head in FITTED.items() if not has_score(head)} == {"tags", "classes"}


@pytest.mark.parametrize("kind", sorted(kind for kind, head in FITTED.items() if has_score(head)))
def test_the_score_that_is_ranked_has_the_order_of_the_column_that_rows_have(kind: str) -> None:
    head = FITTED[kind]
    outputs = np.random.default_rng(0).normal(size=(300, head.num_outputs)).astype(np.float32)
    answer = head.answer(outputs, {})
    column = head.columns(answer)[f"{head.name}_score"].to_numpy(zero_copy_only=False)
    said = numbers_of(head).score(head, head.measured(answer))
    inside = (column > column.min()) & (column < column.max())  # a quantile has no more order at its ends
    assert spearmanr(said[inside], column[inside]).statistic == pytest.approx(1, abs=1e-4)


def test_votes_are_ranked_by_their_mean_and_ranks_of_sets_are_no_label() -> None:
    votes, sets = FITTED["distribution"], FITTED["preference"]
    label = np.array([[1.0, 0, 3], [2, 2, 0], [np.nan] * 3, [0, 0, 0]])
    found = numbers_of(votes).label_number(votes, label)
    np.testing.assert_allclose(found, [2.5, 1.5, np.nan, np.nan])  # type: ignore[arg-type]
    assert numbers_of(sets).label_number(sets, label) is None
