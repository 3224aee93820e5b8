"""Rewards: what one output means under a calibration, and which pairs a target says something of."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from pix2score.heads.compared import (
    LABEL,
    MAX_IMAGES,
    TARGET_SIZE,
    by_row,
    key_text,
    num_others,
    padded,
    pairs_of,
)
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.preference import PreferenceHead

HEAD = PreferenceHead(name="liked", sets=10, pairs=12)
CALIBRATION = {"temperature": 2.0, "mean": 3.0, "std": 4.0, "quantiles": np.linspace(-1, 1, 101).tolist()}
NAN = float("nan")


def outputs(*values: float) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)[:, None]


def test_a_reward_has_mean_0_and_deviation_1_and_its_score_is_its_quantile() -> None:
    found = HEAD.answer(outputs(3, 7, 1, -99), CALIBRATION)
    np.testing.assert_allclose(found.reward, [0, 1, -0.5, -25.5])
    np.testing.assert_allclose(found.score, [0.5, 1, 0.25, 0], atol=1e-7)
    np.testing.assert_allclose(HEAD.measured(found)[:, 0], [1.5, 3.5, 0.5, -49.5])


def test_what_is_measured_is_what_the_empty_calibration_leaves_as_it_is() -> None:
    measured = HEAD.measured(HEAD.answer(outputs(3, 7), CALIBRATION))
    np.testing.assert_array_equal(HEAD.measured(HEAD.answer(measured, {})), measured)


def test_without_calibration_scores_are_those_of_a_normal_distribution() -> None:
    score = HEAD.answer(outputs(-5, -0.6745, 0, 0.6745, 5), {}).score
    np.testing.assert_allclose(score, [0, 0.25, 0.5, 0.75, 1], atol=1e-3)


def test_outputs_that_are_not_finite_or_huge_give_finite_answers() -> None:
    found = HEAD.answer(outputs(np.nan, np.inf, -3e38), {**CALIBRATION, "std": 1e-6})
    assert all(np.isfinite(part).all() for part in (found.reward, found.score, found.logit))


def test_columns_are_the_fields_and_texts_say_reward_and_score() -> None:
    found = HEAD.answer(outputs(7, 3), CALIBRATION)
    columns = HEAD.columns(found)
    assert [(name, column.type) for name, column in columns.items()] == [
        (f.name, f.type) for f in HEAD.fields()
    ]
    assert HEAD.text(HEAD.plain(found, 0)).split() == [
        "reward",
        "+1.00,",
        "above",
        "100%",
        "of",
        "the",
        "images",
        "compared",
        "score",
        "1.000",
    ]
    assert HEAD.caption({"liked_reward": 1.0, "liked_score": 0.5}) == "liked +1.00, score 0.50"
    assert HEAD.histogram(pa.table(columns)).tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 0, 1]


def test_it_is_the_same_from_json() -> None:
    assert head_from_dict(HEAD.to_dict()) == HEAD


def test_targets_are_padded_and_rows_that_are_no_sets_are_missing() -> None:
    column = pa.chunked_array(
        [pa.array([[1, NAN, 2, 1], None], LABEL), pa.array([[3, 0.5, *range(1, 17)]], LABEL)]
    )
    found = HEAD.targets(column)
    assert found.shape == (3, TARGET_SIZE)
    np.testing.assert_array_equal(found[0, :5], [1, NAN, 2, 1, NAN])
    assert np.isnan(found[1]).all()
    np.testing.assert_array_equal(HEAD.label_values(column)[2], range(1, MAX_IMAGES + 1))


def test_pairs_are_those_of_different_rank_and_weigh_together_what_their_set_does() -> None:
    pairs = pairs_of(padded(pa.chunked_array([pa.array([[3, NAN, 2, 1, 2], None, [1, NAN, 1, 2]], LABEL)])))
    found = list(
        zip(*(part.tolist() for part in (pairs.row, pairs.better, pairs.worse, pairs.weight)), strict=True)
    )
    assert found == [(0, 1, 0, 1.5), (0, 1, 2, 1.5), (2, 0, 1, 1.0)]


def test_numbers_of_images_are_laid_side_by_side_by_row() -> None:
    others = pa.chunked_array([pa.array([[b"x"], None]), pa.array([[b"y", b"z"]])])
    assert num_others(others).tolist() == [1, 0, 2]
    found = by_row(np.array([1, 2, 3]), np.array([4, 5, 6]), num_others(others))
    np.testing.assert_array_equal(found[:, :3], [[1, 4, NAN], [2, NAN, NAN], [3, 5, 6]])
    assert np.isnan(found[:, 3:]).all()


@pytest.mark.parametrize(("page", "text"), [(0, "7 p0"), (-2, "7 p-2"), (-1_000_000_005, "7 set 5")])
def test_a_key_is_told_as_an_image_or_as_a_set(page: int, text: str) -> None:
    assert key_text(7, page) == text
