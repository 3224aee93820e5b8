"""Votes become shares, weights and a prior; logits become shares with a mean, a deviation and a score."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from pix2score.errors import ConfigError, DataError
from pix2score.heads.distribution import DistributionHead
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import LabelColumn, present
from pix2score.storage.arrow import fixed_lists
from tests.support.votes import COLUMNS, HEAD, fitted, sql_of, votes

LISTS = DistributionHead(name="votes", column="a", values=(1, 2, 3))
BAD = {
    "not_a_number": [None, 1, 1],
    "negative": [-1, 2, 2],
    "not_finite": [float("inf"), 1, 1],
    "all_zero": [0, 0, 0],
}


@pytest.mark.parametrize("reason", BAD)
def test_votes_that_are_no_label_are_dropped_and_the_reason_is_named(reason: str) -> None:
    rows = [BAD[reason], [1, 2, 3]]
    assert sql_of(HEAD.clean_sql(COLUMNS), rows) == [None, (1.0, 2.0, 3.0)]
    assert sql_of(HEAD.reason_sql(COLUMNS), rows[:1]) == [reason]
    assert sql_of(HEAD.given_sql(COLUMNS), rows[:1])[0].startswith("[")


def test_a_row_without_any_vote_has_nothing_that_could_be_dropped() -> None:
    assert sql_of(HEAD.given_sql(COLUMNS), [[None, None, None]]) == [None]


@pytest.mark.parametrize(
    ("value", "reason"),
    [("[1, 2]", "wrong_length"), ("[1, NULL, 2]", "not_a_number"), ("[]", "wrong_length")],
)
def test_lists_must_have_a_number_for_every_value(value: str, reason: str) -> None:
    columns = [LabelColumn("a", pa.list_(pa.int64()))]
    sql = f"SELECT {LISTS.clean_sql(columns)}, {LISTS.reason_sql(columns)} FROM (SELECT {value} AS a)"
    assert duckdb.sql(sql).fetchall() == [(None, reason)]
    fine = f"SELECT {LISTS.clean_sql(columns)} FROM (SELECT [0, 2, 3] AS a)"
    assert duckdb.sql(fine).fetchall() == [((0.0, 2.0, 3.0),)]


def test_a_list_where_one_number_is_expected_is_named_and_so_is_the_other_way_round() -> None:
    with pytest.raises(DataError, match="column no is of type list.*votes of one class"):
        HEAD.label_type([LabelColumn("a", pa.list_(pa.int64())), *COLUMNS[1:]])
    with pytest.raises(DataError, match="column a is of type double.*a list of numbers"):
        LISTS.label_type([LabelColumn("a", pa.float64())])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": ["x", "y"], "column": "z"}, "give columns"),
        ({}, "give columns"),
        ({"column": "z"}, "give values"),
        ({"columns": ["x", "x"]}, "name one twice"),
        ({"columns": ["x", "y"], "values": [1, 2, 3]}, "2 columns, but 3 values"),
        ({"columns": ["x", "y"], "values": [2, 1]}, "strictly increasing"),
        ({"columns": ["x"]}, "between 2 and 100"),
        ({"columns": "x"}, "expected a list of column names"),
        ({"columns": ["x", "y"], "loss": "bce"}, "loss 'bce' is not known"),
        ({"columns": ["x", "y"], "size": 2}, "unknown key size"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        head_from_dict({"name": "votes", "kind": "distribution", **settings})


def test_a_learnt_head_comes_back_from_its_plain_values() -> None:
    head = fitted(votes(50))
    assert head_from_dict(head.to_dict()) == head
    assert "columns" in head.to_dict()


def test_many_votes_weigh_more_than_few_and_the_mean_weight_is_one() -> None:
    given = np.array([[0, 0, 2], [100, 0, 0], [3, 3, 4]], dtype=np.float32)
    head = fitted(given)
    target = head.targets(pa.chunked_array([head.encode(fixed_lists(given))]))
    np.testing.assert_allclose(target[:, :3], given / given.sum(axis=1, keepdims=True))
    raw = np.array([2 / 12, 100 / 110, 10 / 20])
    np.testing.assert_allclose(target[:, 3], raw / raw.mean(), rtol=1e-6)
    even = fitted(given, replace(HEAD, weight_by_votes=False))
    assert even.targets(pa.chunked_array([even.encode(fixed_lists(given))]))[:, 3].tolist() == [1, 1, 1]


def test_shares_instead_of_votes_weigh_all_the_same() -> None:
    given = votes(20)
    head = fitted((given / given.sum(axis=1, keepdims=True)).astype(np.float32))
    np.testing.assert_allclose(
        head.targets(pa.chunked_array([head.encode(fixed_lists(given / given.sum(1, keepdims=True)))]))[:, 3],
        1,
        rtol=1e-5,
    )


def test_a_missing_label_is_missing_as_target_and_as_label() -> None:
    head = fitted(votes(9))
    given = votes(2)
    labels = fixed_lists(given).take(pa.array([0, None, 1]))
    target = head.targets(pa.chunked_array([head.encode(labels)]))
    assert present(target).tolist() == [True, False, True]
    np.testing.assert_allclose(target[[0, 2], :3], given / given.sum(axis=1, keepdims=True), rtol=1e-6)
    assert np.isnan(head.label_values(pa.chunked_array([labels]))[1]).all()
    assert head.encode(labels).type == head.target_field().type


def test_what_is_learnt_is_the_same_in_whatever_order_rows_come() -> None:
    given = votes(200)
    assert fitted(given) == fitted(given[::-1])


def test_labels_that_are_all_alike_teach_nothing() -> None:
    head = fitted(np.array([[1, 1, 2], [2, 2, 4]], dtype=np.float32))
    with pytest.raises(DataError, match="same shares"):
        head.check_learnable()
    fitted(votes(9)).check_learnable()
    with pytest.raises(DataError, match="no label in the train split; column no, so, yes"):
        fitted(votes(1)[:0])


def test_a_value_that_nobody_votes_for_is_warned_of_and_still_has_a_finite_prior() -> None:
    head = fitted(np.array([[0, 1, 2], [0, 2, 1]], dtype=np.float32))
    assert head.fit_warnings(HEAD) == ["head votes: no training image has a vote for -1"]
    assert np.isfinite(head.initial_bias()).all()


def test_an_answer_has_the_moments_of_its_shares_and_the_quantile_of_its_mean() -> None:
    head = replace(HEAD, quantiles=(-1.0, 0.0, 0.0, 1.0, 2.0))
    found = head.answer(np.log(np.array([[0.04, 0.16, 0.36]], np.float32)), {"temperature": 2.0})
    np.testing.assert_allclose(found.probs, [[1 / 6, 2 / 6, 3 / 6]], rtol=1e-6)
    mean = -1 / 6 + 2 * 3 / 6
    assert found.value[0] == pytest.approx(mean)
    assert found.std[0] == pytest.approx(np.sqrt(1 / 6 + 4 * 3 / 6 - mean**2))
    assert found.score[0] == pytest.approx(0.375 + (mean - 0) / 1 * (0.75 - 0.375))


def test_logits_that_are_not_finite_give_finite_answers() -> None:
    found = fitted(votes(9)).answer(np.array([[np.nan, np.inf, -np.inf]], np.float32), {})
    assert all(np.isfinite(part).all() for part in (found.probs, found.value, found.std, found.score))


def test_bad_rows_are_found_and_good_ones_are_not() -> None:
    head = fitted(votes(50))
    logits = np.random.default_rng(0).normal(0, 5, (200, 3)).astype(np.float32)
    good = pa.table(head.columns(head.answer(logits, {})))
    (sql,) = head.bad_rows_sql().values()
    assert [f.name for f in head.fields()] == good.column_names

    def num_bad(scores: pa.Table) -> int:
        with duckdb.cursor() as connection:
            connection.register("scores", scores)
            return len(connection.execute(f"SELECT 1 FROM scores WHERE coalesce({sql}, true)").fetchall())

    assert num_bad(good) == 0
    for name, value in (("value", 2.5), ("value", -0.9), ("std", 1.7), ("std", -0.1), ("score", 1.1)):
        place = good.schema.get_field_index(f"votes_{name}")
        assert num_bad(good.set_column(place, f"votes_{name}", pa.array([value] * 200, pa.float32()))) > 100
    unequal = fixed_lists(np.full((200, 3), 0.4, np.float32))
    assert num_bad(good.set_column(0, "votes_probs", unequal)) == 200


def test_a_night_is_told_in_tenths_of_the_score() -> None:
    rows = pa.table({"votes_score": pa.array([0.0, 0.05, 0.55, 1.0, None], pa.float32())})
    assert HEAD.histogram(rows).tolist() == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    assert len(HEAD.histogram_labels()) == 10


def test_people_read_mean_deviation_score_and_shares() -> None:
    answer = HEAD.answer(np.log(np.array([[0.2, 0.3, 0.5]], np.float32)), {})
    text = HEAD.text(HEAD.plain(answer, 0))
    assert "0.8 ± 1.25" in text and "-1 20%, 0 30%, 2 50%" in text
    assert HEAD.legend() == {"0": "-1", "1": "0", "2": "2"}


def test_a_model_does_not_take_a_dataset_of_other_values() -> None:
    assert "values" in HEAD.difference_from(replace(HEAD, values=(1.0, 2.0, 3.0)))
    assert HEAD.difference_from(fitted(votes(9))) == ""
