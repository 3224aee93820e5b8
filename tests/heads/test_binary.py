"""Yes-or-no heads: which labels count, and what one output means: a probability, whatever the loss."""

from __future__ import annotations

import json
import math
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pix2score.errors import ConfigError, DataError
from pix2score.heads.binary import BinaryHead
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import LabelColumn

HEAD = BinaryHead(name="liked", column="liked", counts=(60, 40))
PLATT = {"slope": 2.0, "offset": -0.5, "threshold": 0.3}


def cleaned(column: pa.Array, head: BinaryHead = HEAD) -> list[tuple[int | None, str | None]]:
    """Clean label and, where one that was given is dropped, the reason."""
    assert head.accepts(column.type)
    table, columns = pa.table({"label_0": column}), [LabelColumn("label_0", column.type)]
    reason = f"CASE WHEN {head.clean_sql(columns)} IS NULL AND {head.given_sql(columns)} IS NOT NULL "
    reason += f"THEN {head.reason_sql(columns)} END"
    with duckdb.cursor() as connection:
        connection.register("given", table)
        return connection.execute(f"SELECT {head.clean_sql(columns)}, {reason} FROM given").fetchall()


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        (pa.array([True, False, None]), [(1, None), (0, None), (None, None)]),
        (pa.array([1, 0, 2, None]), [(1, None), (0, None), (None, "not_yes_or_no"), (None, None)]),
        (pa.array([1.0, 0.0, 0.5]), [(1, None), (0, None), (None, "not_yes_or_no")]),
        (
            pa.array(["1", "0", " True", "FALSE", "good", "", "0.0"]),
            [(1, None), (0, None), (1, None), (0, None), (None, "not_yes_or_no"), (None, "empty"), (0, None)],
        ),
    ],
    ids=["truth values", "whole numbers", "numbers", "texts"],
)
def test_truth_values_ones_and_zeros_are_labels_and_everything_else_is_dropped(
    column: pa.Array, wanted: list[Any]
) -> None:
    assert cleaned(column) == wanted


def test_of_texts_those_named_are_yes_and_every_other_is_no() -> None:
    head = BinaryHead(name="h", column="c", positive=("good", "it's fine"))
    column = pa.array(["good", "bad", " it's fine ", "Good", "", None])
    assert [label for label, _ in cleaned(column, head)] == [1, 0, 1, 0, None, None]
    assert cleaned(column, head)[4][1] == "empty"
    assert [
        label for label, _ in cleaned(pa.array([5, 4, 5]), BinaryHead(name="h", column="c", positive=("5",)))
    ]
    assert "positive = " in head.expected_label("not_yes_or_no")


def fitted(head: BinaryHead, labels: list[int]) -> BinaryHead:
    with duckdb.cursor() as connection:
        connection.register("labels", pa.table({"label": pa.array(labels, pa.int8())}))
        return head.fit(lambda sql: connection.sql(sql).to_arrow_reader(100))


def test_fitting_counts_both_answers_and_warns_where_one_is_rare() -> None:
    head = fitted(BinaryHead(name="h", column="c"), [0] * 30 + [1] * 20)
    assert head.counts == (30, 20)
    assert head.fit_warnings(head) == []
    (rare,) = fitted(head, [0] * 30 + [1] * 19).fit_warnings(head)
    assert "19 training images are yes and 30 are no" in rare
    with pytest.raises(DataError, match=r"'h' has no label in the train split; column 'c'"):
        fitted(head, [])


def test_one_answer_alone_cannot_be_learnt_and_the_texts_of_yes_are_named() -> None:
    HEAD.check_learnable()
    with pytest.raises(DataError, match=r"of 9 training labels in column 'c' 0 are yes.*\['God'\]"):
        BinaryHead(name="h", column="c", positive=("God",), counts=(9, 0)).check_learnable()
    with pytest.raises(DataError, match="9 are yes and 0 are no"):
        BinaryHead(name="h", column="c", counts=(0, 9)).check_learnable()


@pytest.mark.parametrize(
    ("plain", "named"),
    [
        ({"positive": []}, "positive is empty"),
        ({"positive": "good"}, "positive = 'good', expected a list of texts"),
        ({"positive_weight": 0}, "positive_weight 0"),
        ({"positive_weight": "even"}, "positive_weight = 'even'.*balanced"),
        ({"loss": "mse"}, "loss 'mse'.*bce, focal"),
        ({"size": 5}, "unknown key size; known for kind binary"),
    ],
)
def test_a_bad_table_is_refused_by_the_key(plain: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        head_from_dict({"name": "h", "column": "c", "kind": "binary", **plain})


def test_a_head_survives_json() -> None:
    head = BinaryHead(
        name="h", column="c", positive=("good",), positive_weight="balanced", loss="focal", counts=(5, 3)
    )
    assert head_from_dict(json.loads(json.dumps(head.to_dict(), allow_nan=False))) == head


def test_targets_are_one_zero_or_missing_in_shards_and_in_padding_rows() -> None:
    column = HEAD.encode(pa.array([1, None, 0], pa.int8()))
    assert column.type == HEAD.target_field().type
    assert HEAD.targets(pa.chunked_array([column])).tolist() == [1, -1, 0]
    assert HEAD.targets(pa.chunked_array([pa.array([None, 1], pa.int8())])).tolist() == [-1, 1]
    labels = HEAD.label_values(pa.chunked_array([pa.array([1, None], pa.int8())]))
    assert labels[0] == 1
    assert np.isnan(labels[1])


def test_the_first_answer_is_the_prior_and_costs_its_entropy() -> None:
    assert HEAD.initial_bias()[0] == pytest.approx(math.log(40 / 60))
    assert HEAD.null_cost == pytest.approx(-(0.4 * math.log(0.4) + 0.6 * math.log(0.6)))


@pytest.mark.parametrize("loss", ["bce", "focal"])
@pytest.mark.parametrize("weight", [1.0, 5.0, "balanced"])
def test_the_first_answer_is_the_constant_that_costs_least(loss: str, weight: float | str) -> None:
    head = BinaryHead(name="h", column="c", counts=(80, 20), positive_weight=weight, loss=loss)
    w = 4.0 if weight == "balanced" else float(weight)
    q = np.linspace(0.001, 0.999, 9981)
    focus = 2 if loss == "focal" else 0
    cost = -(0.2 * w * (1 - q) ** focus * np.log(q) + 0.8 * q**focus * np.log(1 - q))
    assert head.null_cost == pytest.approx(cost.min(), rel=1e-5)
    assert 1 / (1 + math.exp(-head.initial_bias()[0])) == pytest.approx(q[cost.argmin()], abs=2e-3)


def test_answers_are_calibrated_log_odds_and_their_expected_quantile() -> None:
    found = HEAD.answer(np.array([[0.25], [3.0]], np.float32), PLATT)
    np.testing.assert_allclose(found.prob, [0.5, 1 / (1 + math.exp(-5.5))], rtol=1e-6)
    np.testing.assert_allclose(found.score[0], 0.5 * 0.3 + 0.5 * 0.8)
    assert HEAD.plain(found, 0) == {"prob": 0.5, "score": pytest.approx(0.55), "yes": True}
    assert HEAD.text(HEAD.plain(found, 0)).split() == ["yes", "(probability", "50.0%)", "score", "0.550"]
    assert (
        list(HEAD.columns(found)) == [field.name for field in HEAD.fields()] == ["liked_prob", "liked_score"]
    )


def test_what_is_measured_gives_the_same_answer_without_a_calibration() -> None:
    outputs = np.array([[-40.0], [-1.0], [0.3], [40.0]], np.float32)
    found = HEAD.answer(outputs, PLATT)
    again = HEAD.answer(HEAD.measured(found), {})
    np.testing.assert_allclose(again.prob, found.prob, atol=1e-6)
    assert np.isfinite(HEAD.measured(found)).all()


def test_outputs_that_are_not_finite_give_finite_answers() -> None:
    found = HEAD.answer(np.array([[np.nan], [np.inf], [-np.inf]], np.float32), {})
    assert np.isfinite(found.prob).all()
    assert np.isfinite(found.score).all()


@pytest.mark.parametrize(
    ("prob", "score", "is_bad"),
    [(0.5, 0.55, False), (0.5, 0.6, True), (1.5, 1.0, True), (float("nan"), 0.5, True), (0.0, 0.3, False)],
)
def test_verify_sees_a_probability_that_is_none_or_has_another_score(
    prob: float, score: float, is_bad: bool
) -> None:
    (sql,) = HEAD.bad_rows_sql().values()
    with duckdb.cursor() as connection:
        row = f"SELECT {prob!r}::FLOAT AS liked_prob, {score!r}::FLOAT AS liked_score".replace("nan", "'nan'")
        (found,) = connection.execute(f"SELECT ({sql}) IS NOT FALSE FROM ({row})").fetchone()
    assert found is is_bad


def test_a_night_is_told_by_tenths_of_the_probability() -> None:
    rows = pa.table({"liked_prob": pa.array([0.15, 0.19, 0.95, None], pa.float32())})
    assert HEAD.histogram(rows).tolist() == [0, 2, *[0] * 7, 1]
    assert HEAD.histogram_labels()[::9] == ["0-10 %", "90-100 %"]
    assert HEAD.caption({"liked_prob": 0.42}) == "liked 42%"


def test_a_model_does_not_fit_a_dataset_that_means_another_yes() -> None:
    good, fine = (BinaryHead(name="h", column="c", positive=(text,)) for text in ("good", "fine"))
    assert good.difference_from(good) == ""
    assert "positive = ('good',) in the model" in good.difference_from(fine)
