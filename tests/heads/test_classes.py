"""Names become classes, and logits become one of them with its probability."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
import pytest
import torch

from pix2score.errors import ConfigError, DataError
from pix2score.heads.classes import ClassesHead
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import LabelColumn
from pix2score.metrics.classes import ClassNumbers, ClassRows
from pix2score.metrics.protocol import Answers
from pix2score.metrics.verdict import head_verdict
from pix2score.serve.graph import ANSWERS
from pix2score.train.step.losses import LOSSES

HEAD = ClassesHead(name="sort", column="c")
COLUMN = [LabelColumn("c", pa.string())]
NAMES = ["cat"] * 3 + ["dog"] * 5 + ["it's"] * 2 + ["owl"]


def fitted(head: ClassesHead = HEAD, names: list[str] = NAMES) -> ClassesHead:
    with duckdb.cursor() as connection:
        connection.register("labels", pa.table({"label": pa.array(names, pa.string())}))

        def query(sql: str) -> Iterator[pa.RecordBatch]:
            yield from connection.sql(sql).to_arrow_reader(1000)

        return head.fit(query)


def cleaned(head: ClassesHead, value: str | None) -> tuple[str | None, str | None]:
    """Label, and what the column holds."""
    sql = f"SELECT {head.clean_sql(COLUMN)}, {head.given_sql(COLUMN)} FROM (SELECT ?::VARCHAR AS c)"
    (row,) = duckdb.execute(sql, [value]).fetchall()
    return row


def test_classes_are_the_names_of_the_train_split_the_most_frequent_first() -> None:
    head = fitted()
    assert head.classes == ("dog", "cat", "it's", "owl") and head.counts == (5, 3, 2, 1)
    assert fitted(replace(HEAD, min_images=2)).classes == ("dog", "cat", "it's")
    assert head_from_dict(head.to_dict()) == head and "classes" in head.to_dict()


def test_given_classes_drop_other_names_and_blanks_are_no_label() -> None:
    given = replace(HEAD, names=("it's", "dog"))
    assert cleaned(given, " it's ") == ("it's", "it's")
    assert cleaned(given, "cat") == (None, "cat")
    assert cleaned(HEAD, "  ") == cleaned(HEAD, None) == (None, None)
    assert fitted(given).counts == (2, 5)
    assert "no training image of cow" in fitted(replace(HEAD, names=("dog", "cow"))).fit_warnings(HEAD)[0]


def test_what_cannot_be_learnt_is_refused_with_what_there_is() -> None:
    with pytest.raises(DataError, match=r"fewer than two classes.*dog \(5\), cat \(3\)"):
        fitted(replace(HEAD, min_images=6))
    with pytest.raises(DataError, match="of one class"):
        fitted(replace(HEAD, names=("dog", "cow"))).check_learnable()
    with pytest.raises(ConfigError, match="2 classes, 1 of them different"):
        replace(HEAD, names=("dog", "dog"))


def test_a_name_that_train_does_not_have_is_a_missing_label() -> None:
    found = fitted().encode(pa.array(["cat", "cow", None, "dog"]))
    assert found.to_pylist() == [1, -1, -1, 0] and found.type == fitted().target_field().type
    assert np.isnan(fitted().label_values(pa.chunked_array([pa.array(["cow", None])]))).all()


def test_the_answer_is_the_most_probable_class_in_numpy_and_on_the_graph() -> None:
    head = fitted()
    logits = np.random.default_rng(0).normal(0, 2, (50, 4)).astype(np.float32)
    answer = head.answer(logits, {"temperature": 1.5})
    for i, row in enumerate(logits):
        found = ANSWERS["classes"](head, torch.from_numpy(row), {"temperature": 1.5})
        assert int(found["class"]) == answer.best[i]
        np.testing.assert_allclose(found["probs"].numpy(), answer.probs[i], atol=1e-6)
    plain = head.plain(answer, 0)
    assert plain["class"] == head.classes[int(logits[0].argmax())]
    assert head.text(plain).startswith(f"{plain['class']} {plain['prob']:.0%}")


def test_verify_finds_a_class_that_is_not_the_most_probable_one() -> None:
    head = fitted()
    logits = np.random.default_rng(0).normal(0, 2, (50, 4)).astype(np.float32)
    good = pa.table(head.columns(head.answer(logits, {})))
    (sql,) = head.bad_rows_sql().values()
    wrong = good.set_column(0, "sort_class", pa.array(["owl"] * 50))

    def num_bad(scores: pa.Table) -> int:
        with duckdb.cursor() as connection:
            connection.register("scores", scores)
            return len(connection.execute(f"SELECT 1 FROM scores WHERE coalesce({sql}, true)").fetchall())

    assert num_bad(good) == 0
    assert num_bad(wrong) == 50 - (logits.argmax(axis=1) == 3).sum()
    assert head.histogram(good).tolist() == np.bincount(logits.argmax(axis=1), minlength=4).tolist()


def test_the_prior_costs_one_and_numbers_stand_beside_their_references() -> None:
    head = fitted(names=NAMES * 20)
    truth = np.repeat(np.arange(4), (100, 60, 40, 20))
    bias = np.tile(head.initial_bias(), (220, 1))
    cost = LOSSES["cross_entropy"](torch.from_numpy(bias), torch.from_numpy(truth), head) / 220
    assert float(cost) / head.null_cost == pytest.approx(1, abs=1e-4)
    logits = np.random.default_rng(0).normal(0, 1, (220, 4)) + 3 * np.eye(4)[truth]
    outputs = head.measured(head.answer(logits.astype(np.float32), {})).astype(np.float64)
    answers = Answers(head, outputs, truth, truth.astype(np.float64), np.arange(220))
    rows = ClassRows(head)
    rows.add(outputs, truth, truth)
    verdict = head_verdict(answers, rows, {"temperature": 1.2}, ClassNumbers().ridge_target(head, truth))
    assert verdict.numbers["accuracy"] == pytest.approx((outputs.argmax(1) == truth).mean())
    assert verdict.ridge["accuracy"] == 1 and verdict.constant["accuracy"] == pytest.approx(100 / 220)
    assert rows.relative_loss() < 0.8
    misses = ClassNumbers().misses(head, outputs, truth)
    np.testing.assert_allclose(np.exp(-outputs[range(220), truth]) * (1 - misses), 1)
    assert ClassNumbers().curves(answers, {})["confusion"][0][0] > 0.5
