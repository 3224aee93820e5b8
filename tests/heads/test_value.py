"""Heads of a number: which labels count, what is learnt of them, and what outputs mean."""

from __future__ import annotations

import json
import math
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pix2score.errors import ConfigError, DataError
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import HeadSpec, LabelColumn
from pix2score.heads.value import NUM_VALUES, ValueHead

HEAD = ValueHead(
    name="beauty",
    column="rating",
    range=(1, 5),
    mean=3.0,
    std=0.5,
    quantiles=tuple(np.linspace(1, 5, 101).tolist()),
)
LINE = {"slope": 2.0, "offset": -3.0, "residual_std": 0.25}


def cleaned(column: pa.Array, head: ValueHead = HEAD) -> list[tuple[float | None, str | None]]:
    """Clean label and, where one that was given is dropped, the reason."""
    columns = [LabelColumn("label_0", column.type)]
    reason = f"CASE WHEN {head.clean_sql(columns)} IS NULL AND {head.given_sql(columns)} IS NOT NULL "
    reason += f"THEN {head.reason_sql(columns)} END"
    with duckdb.cursor() as connection:
        connection.register("given", pa.table({"label_0": column}))
        return connection.execute(f"SELECT {head.clean_sql(columns)}, {reason} FROM given").fetchall()


def test_labels_outside_the_range_are_dropped_and_its_ends_are_not() -> None:
    assert cleaned(pa.array([1, 5, 0, 6, None])) == [
        (1, None),
        (5, None),
        (None, "outside_range"),
        (None, "outside_range"),
        (None, None),
    ]
    assert HEAD.expected_label("outside_range") == ": range is 1 to 5"


def test_texts_that_are_no_numbers_and_numbers_that_are_not_finite_are_dropped() -> None:
    head = ValueHead(name="h", column="c")
    assert cleaned(pa.array(["-3.5", "1,5", "many", "inf"]), head) == [
        (-3.5, None),
        (None, "not_a_number"),
        (None, "not_a_number"),
        (None, "not_finite"),
    ]
    assert cleaned(pa.array([1e39, -1e39, 3e38]), head)[:2] == [(None, "outside_range")] * 2
    assert head.expected_label("outside_range") == ": at most 3.4e+38 is possible"


def fitted(labels: list[float], head: ValueHead = ValueHead(name="h", column="c")) -> ValueHead:  # noqa: B008
    with duckdb.cursor() as connection:
        connection.register("labels", pa.table({"label": pa.array(labels, pa.float64())}))
        return head.fit(lambda sql: connection.sql(sql).to_arrow_reader(7))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40))
@settings(max_examples=30)
def test_mean_deviation_and_quantiles_are_numpys(labels: list[float]) -> None:
    head = fitted(labels)
    assert head.mean == pytest.approx(np.mean(labels), abs=1e-9 * np.abs(labels).max() + 1e-300)
    assert head.std == pytest.approx(np.std(labels), abs=1e-8 * np.abs(labels).max() + 1e-300)
    wanted = np.quantile(labels, np.linspace(0, 1, 101))
    np.testing.assert_allclose(head.train_quantiles, wanted, atol=1e-9 * np.abs(labels).max() + 1e-300)


def test_deviation_keeps_its_digits_far_from_zero() -> None:
    assert fitted([1e9 + k for k in range(10)]).std == pytest.approx(np.std(range(10)), rel=1e-9)


def test_without_labels_or_with_equal_ones_there_is_nothing_to_learn() -> None:
    with pytest.raises(DataError, match=r"'h' has no label in the train split; column 'c'"):
        fitted([])
    with pytest.raises(DataError, match=r"'h': all training labels in column 'c' are 2.5"):
        fitted([2.5] * 4).check_learnable()
    fitted([2.5, 2.5, 3.0]).check_learnable()


def test_a_label_far_from_all_others_is_warned_of() -> None:
    (found,) = fitted([0.0, 1.0] * 400 + [1e6]).fit_warnings(HEAD)
    assert "a label of 1e+06 lies 28 standard deviations from the mean" in found
    assert fitted([0.0, 1.0] * 400 + [3.0]).fit_warnings(HEAD) == []


@pytest.mark.parametrize(
    ("plain", "named"),
    [
        ({"range": [5, 1]}, r"range \[5, 1\] must be two numbers"),
        ({"range": [1, 2, 3]}, r"range \[1, 2, 3\]"),
        ({"range": [0, float("inf")]}, "range"),
        ({"range": 5}, "range = 5, expected a list of two numbers"),
        ({"label_noise": -1}, "label_noise -1 must be 0 or more"),
        ({"loss": "bce"}, "loss 'bce'.*mse, smooth_l1, expected"),
        ({"edges": [1]}, "unknown key edges"),
    ],
)
def test_a_bad_table_is_refused_by_the_key(plain: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        head_from_dict({"name": "h", "column": "c", "kind": "value", **plain})


def test_a_head_survives_json() -> None:
    for head in (HEAD, ValueHead(name="h", column="c", loss="expected")):
        assert head_from_dict(json.loads(json.dumps(head.to_dict(), allow_nan=False))) == head


def test_targets_are_numbers_or_nan_in_shards_and_in_padding_rows() -> None:
    for labels in (pa.array([4, None]), pa.array([4.0, None])):
        column = HEAD.encode(labels)
        assert column.type == HEAD.target_field().type
        np.testing.assert_array_equal(HEAD.targets(pa.chunked_array([column])), [4.0, np.nan])
        np.testing.assert_array_equal(HEAD.label_values(pa.chunked_array([labels])), [4.0, np.nan])
    padded = pa.chunked_array([pa.array([None, 2.0], pa.float32())])
    np.testing.assert_array_equal(HEAD.targets(padded), [np.nan, 2.0])


def test_answers_follow_the_line_and_end_at_the_range() -> None:
    found = HEAD.answer(np.array([[0.0], [1.0], [9.0], [-9.0]], np.float32), LINE)
    np.testing.assert_allclose(found.value, [3.0, 4.0, 5.0, 1.0])
    np.testing.assert_allclose(found.score, [0.5, 0.75, 1.0, 0.0], atol=1e-6)
    assert HEAD.plain(found, 1) == {"value": 4.0, "score": 0.75, "residual_std": 0.25}
    assert HEAD.text(HEAD.plain(found, 1)).split() == ["4", "±", "0.25", "score", "0.750"]
    assert list(HEAD.columns(found)) == [field.name for field in HEAD.fields()]


def test_without_a_range_answers_have_no_end() -> None:
    head = ValueHead(name="h", column="c", mean=3.0, std=0.5)
    assert head.answer(np.array([[9.0]], np.float32), {}).value[0] == 7.5


@pytest.mark.parametrize("loss", ["mse", "expected"])
def test_what_is_measured_gives_the_same_answer_without_a_calibration(loss: str) -> None:
    head = ValueHead(**{**{key: getattr(HEAD, key) for key in HEAD.to_dict()}, "loss": loss})
    outputs = np.random.default_rng(0).normal(0, 2, (9, head.num_outputs)).astype(np.float32)
    found = head.answer(outputs, LINE)
    again = head.answer(head.measured(found), {})
    np.testing.assert_allclose(again.value, found.value, rtol=1e-6)
    assert head.measured(found).shape == (9, 1)


def test_outputs_that_are_not_finite_give_finite_answers() -> None:
    found = HEAD.answer(np.array([[np.nan], [np.inf], [-np.inf]], np.float32), {})
    assert np.isfinite(found.value).all()
    assert np.isfinite(found.score).all()


def skewed(loss: str) -> ValueHead:
    labels = np.random.default_rng(0).exponential(size=20_001)
    quantiles = tuple(np.quantile(labels, np.linspace(0, 1, 101)).tolist())
    return ValueHead(
        name="h", column="c", loss=loss, mean=labels.mean(), std=labels.std(), quantiles=quantiles
    )


def test_the_first_answer_is_the_constant_that_costs_least() -> None:
    assert HEAD.initial_bias().tolist() == [0.0]
    assert HEAD.null_cost == 1.0
    head = skewed("smooth_l1")
    spread = (np.asarray(head.train_quantiles) - head.mean) / head.std
    tried = np.linspace(-1, 1, 4001)
    away = np.abs(spread - tried[:, None])
    cost = np.trapezoid(np.where(away < 1, away**2 / 2, away - 0.5), dx=0.01, axis=1)
    assert head.initial_bias()[0] == pytest.approx(tried[cost.argmin()], abs=1e-3)
    assert head.null_cost == pytest.approx(cost.min(), rel=1e-6)


def test_the_first_distribution_of_the_loss_expected_has_about_the_mean() -> None:
    head = skewed("expected")
    assert head.num_outputs == NUM_VALUES
    found = head.answer(head.initial_bias()[None], {}).value[0]
    assert found == pytest.approx(head.mean, abs=0.1 * head.std)


@pytest.mark.parametrize(
    ("value", "score", "is_bad"),
    [(3.0, 0.5, False), (5.0, 1.0, False), (5.1, 1.0, True), (3.0, 1.1, True), (math.nan, 0.5, True)],
)
def test_verify_sees_a_value_outside_the_range(value: float, score: float, is_bad: bool) -> None:
    (sql,) = HEAD.bad_rows_sql().values()
    with duckdb.cursor() as connection:
        row = f"SELECT '{value}'::FLOAT AS beauty_value, {score!r}::FLOAT AS beauty_score"
        (found,) = connection.execute(f"SELECT ({sql}) IS NOT FALSE FROM ({row})").fetchone()
    assert found is is_bad


def test_the_ends_of_a_range_that_float32_rounds_are_within_it() -> None:
    head = ValueHead(name="h", column="c", range=(0.1, 0.7), mean=0.4, std=0.1)
    (sql,) = head.bad_rows_sql().values()
    with duckdb.cursor() as connection:
        for value in head.answer(np.array([[99.0], [-99.0]], np.float32), {}).value:
            row = f"SELECT {float(value)!r}::FLOAT AS h_value, 0.5::FLOAT AS h_score"
            assert connection.execute(f"SELECT ({sql}) IS NOT FALSE FROM ({row})").fetchone() == (False,)


def test_a_night_is_told_by_tenths_of_the_score() -> None:
    rows = pa.table({"beauty_score": pa.array([0.05, 0.09, 1.0, None], pa.float32())})
    assert HEAD.histogram(rows).tolist() == [2, *[0] * 8, 1]
    assert HEAD.histogram_labels()[0] == "1 to 1.4"
    assert HEAD.caption({"beauty_value": 3.14159, "beauty_score": 0.42}) == "beauty 3.14, score 0.42"


def test_a_model_fits_a_dataset_with_another_spread_but_not_one_of_another_kind() -> None:
    assert HEAD.difference_from(ValueHead(name="beauty", column="rating", mean=0.0, std=9.0)) == ""
    other: HeadSpec = head_from_dict({"name": "beauty", "column": "rating", "kind": "binary"})
    assert "kind value in the model, binary in the dataset" in HEAD.difference_from(other)
