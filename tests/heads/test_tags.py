"""Heads of tags: what labels become, which vocabulary is learnt, and what outputs mean."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pix2score.errors import ConfigError, DataError
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import LabelColumn, TrainLabels, present
from pix2score.heads.tags import TagsHead, probabilities
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.sql import one_row

LISTS = pa.list_(pa.string())
TRAIN = [["a", "b"], ["a"], ["c", "a"], ["b", "c"], ["rare"], []]
"""a 3, b 2, c 2, rare 1."""


def tags_head(**more: Any) -> TagsHead:
    head = head_from_dict({"name": "tag", "kind": "tags", "column": "tags", "min_images": 2, **more})
    assert isinstance(head, TagsHead)
    return head


def labels_of(rows: list[list[str]]) -> TrainLabels:
    def query(sql: str) -> Iterator[pa.RecordBatch]:
        with duckdb.cursor() as connection:
            connection.register("labels", pa.table({"label": pa.array(rows, LISTS)}))
            yield from connection.sql(sql).to_arrow_table().to_batches()

    return query


def cleaned(head: TagsHead, values: list[Any], kind: pa.DataType) -> list[Any]:
    column = [LabelColumn("given", kind)]
    with duckdb.cursor() as connection:
        connection.register("rows", pa.table({"given": pa.array(values, kind)}))
        sql = f"SELECT {head.clean_sql(column)} AS label FROM rows"
        return connection.sql(sql).to_arrow_table().column("label").to_pylist()


@pytest.fixture
def fitted() -> TagsHead:
    return tags_head().fit(labels_of(TRAIN))


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"size": 0}, "'tag': size 0"),
        ({"size": 40_000}, "size 40000.*30000"),
        ({"size": 5, "vocabulary": "tags.txt"}, "size or vocabulary"),
        ({"separator": ""}, "separator is empty"),
        ({"min_images": 0}, "min_images 0"),
        ({"min_tags": -1}, "min_tags -1"),
        ({"top": 0}, "top 0"),
        ({"top": "many"}, "top = 'many', expected a whole number"),
        ({"loss": "mse"}, "loss 'mse'.*bce"),
        ({"edges": [1]}, "unknown key edges"),
    ],
)
def test_a_bad_setting_is_refused_by_name(keys: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        tags_head(**keys)


def test_it_takes_lists_of_text_and_text_and_no_numbers() -> None:
    assert TagsHead.accepts(LISTS)
    assert TagsHead.accepts(pa.string())
    assert not TagsHead.accepts(pa.int64())
    assert not TagsHead.accepts(pa.list_(pa.int64()))


def test_names_are_trimmed_and_come_once_in_their_order() -> None:
    given = [[" b", "a ", "b", "", None, "it's"], None, [], ["\t"]]
    assert cleaned(tags_head(), given, LISTS) == [["b", "a", "it's"], None, None, None]
    assert cleaned(tags_head(min_tags=0), given, LISTS) == [["b", "a", "it's"], None, [], []]
    assert cleaned(tags_head(min_tags=4), given, LISTS) == [None, None, None, None]


def test_text_is_split_and_without_a_separator_refused() -> None:
    text = ["b; a;;b", None, "", "x"]
    assert cleaned(tags_head(separator=";"), text, pa.string()) == [["b", "a"], None, None, ["x"]]
    assert cleaned(tags_head(separator="'"), ["a'b"], pa.string()) == [["a", "b"]]
    with pytest.raises(ConfigError, match="column tags is text.*separator"):
        tags_head().label_type([LabelColumn("given", pa.string())])


def test_the_most_frequent_tags_are_learnt_ties_by_name(fitted: TagsHead) -> None:
    assert (fitted.tags, fitted.counts, fitted.num_tagged) == (("a", "b", "c"), (3, 2, 2), 6)
    smaller = tags_head(size=2).fit(labels_of(TRAIN))
    assert smaller.tags == ("a", "b")
    assert head_from_dict(json.loads(json.dumps(smaller.to_dict()))) == smaller


def test_prepare_says_how_many_labels_are_left_out_and_why(fitted: TagsHead) -> None:
    assert fitted.fit_warnings(tags_head()) == [
        "head tag: left out 1 tags with fewer than min_images 2 images: 1 of 8 labels in the train split"
    ]
    smaller = tags_head(size=2)
    assert (
        "left out 1 tags beyond the size: 2 of 8 labels"
        in smaller.fit(labels_of(TRAIN)).fit_warnings(smaller)[1]
    )
    larger = tags_head(size=9)
    assert "size 9 asked for, but only 3 tags" in larger.fit(labels_of(TRAIN)).fit_warnings(larger)[1]


def test_without_a_tag_left_the_most_frequent_are_named() -> None:
    with pytest.raises(DataError, match=r"no tag of column 'tags' has min_images 9.*: 'a' 3, 'b' 2, 'c' 2"):
        tags_head(min_images=9).fit(labels_of(TRAIN))
    with pytest.raises(DataError, match="no label in the train split"):
        tags_head().fit(labels_of([]))


def test_a_given_vocabulary_keeps_its_order_and_its_tags(tmp_path: Path) -> None:
    file = tmp_path / "tags.txt"
    file.write_text("c\nnever\n\n a \nc\n")
    head = tags_head(vocabulary=str(file))
    found = head.fit(labels_of(TRAIN))
    assert (found.tags, found.counts) == (("c", "never", "a"), (2, 0, 3))
    assert [line.split(": ", 1)[1] for line in found.fit_warnings(head)] == [
        f"left out 2 tags that are not in {file}: 3 of 8 labels in the train split",
        "1 tags of the given vocabulary have fewer than min_images 2 images; they are kept, and hardly "
        "learnt",
    ]
    with pytest.raises(ConfigError, match=r"vocabulary .*none\.txt is no file"):
        tags_head(vocabulary=str(tmp_path / "none.txt")).fit(labels_of(TRAIN))
    file.write_text("other")
    with pytest.raises(DataError, match=r"none of the 1 tags .* occurs.*'a' 3"):
        head.fit(labels_of(TRAIN))


def test_nothing_is_learnt_where_all_images_have_the_same_tags() -> None:
    same = tags_head().fit(labels_of([["a"], ["a"]]))
    with pytest.raises(DataError, match="every tag is on all of the 2 tagged"):
        same.check_learnable()


def test_targets_are_ids_and_a_dense_batch_says_missing_in_whole_rows(fitted: TagsHead) -> None:
    labels = pa.array([["x"], ["b", "rare", "a"], None, [], ["c"]], LISTS)[1:]
    ids = fitted.encode(labels)
    assert ids.type.equals(fitted.target_field().type)
    assert ids.to_pylist() == [[1, 0], None, [], [2]]
    dense = fitted.targets(pa.chunked_array([ids[:1], ids[1:]]))
    assert dense.dtype == np.int8
    assert dense.tolist() == [[1, 1, 0], [-1, -1, -1], [0, 0, 0], [0, 0, 1]]
    assert present(dense).tolist() == [True, False, True, True]
    numbers = fitted.label_values(pa.chunked_array([labels]))
    np.testing.assert_array_equal(numbers, [3, np.nan, 0, 1])


def test_it_starts_at_the_prevalences_whose_cost_is_its_unit(fitted: TagsHead) -> None:
    bias = fitted.initial_bias()
    assert bias is not None
    np.testing.assert_allclose(probabilities(bias), fitted.prevalences, rtol=1e-6)
    share = fitted.prevalences
    assert fitted.null_cost == pytest.approx(-(share * np.log(share) + (1 - share) * np.log(1 - share)).sum())
    assert 0 < fitted.prevalences.min() < fitted.prevalences.max() < 1


def test_an_answer_has_the_tags_above_their_thresholds_most_probable_first(fitted: TagsHead) -> None:
    outputs = np.array([[0.2, 3, -1], [-5, -5, -5], [1, 1, 2]], dtype=np.float32)
    answer = fitted.answer(outputs, {"slope": 2.0, "offset": -1.0, "thresholds": [0.3, 0.5, 0.99]})
    columns = fitted.columns(answer)
    assert columns["tag_tags"].to_pylist() == [["b", "a"], [], ["a", "b"]]
    np.testing.assert_allclose(
        columns["tag_probs"].to_pylist()[0], probabilities(np.array([5.0, -0.6])), rtol=1e-5
    )
    assert fitted.plain(answer, 0)["tags"] == ["b", "a"]
    assert fitted.text(fitted.plain(answer, 0)) == "b 0.99, a 0.35"
    assert fitted.text(fitted.plain(answer, 1)) == "no tag above its threshold"
    assert [f.type for f in fitted.fields()] == [column.type for column in columns.values()]
    np.testing.assert_allclose(fitted.measured(answer), outputs * 2 - 1)


def test_a_row_has_at_most_top_tags_and_ties_go_by_the_vocabulary() -> None:
    head = tags_head(top=2).fit(labels_of(TRAIN))
    answer = head.answer(np.array([[1, 1, 1], [1, 3, 2]], dtype=np.float32), {})
    assert head.columns(answer)["tag_tags"].to_pylist() == [["a", "b"], ["b", "c"]]


def test_outputs_that_are_not_finite_give_finite_nonsense(fitted: TagsHead) -> None:
    answer = fitted.answer(np.array([[np.nan, np.inf, 1e30]], dtype=np.float32), {})
    assert np.isfinite(answer.logits).all()
    assert np.isfinite(answer.probs).all()


GOOD = {"tag_tags": ["b", "it's"], "tag_probs": [0.9, 0.5]}
BAD = {
    "not a probability for each": [
        {"tag_tags": ["a"], "tag_probs": [0.9, 0.5]},
        {"tag_tags": ["a"], "tag_probs": [1.5]},
        {"tag_tags": ["a"], "tag_probs": [float("nan")]},
        {"tag_tags": ["a", "b", "c", "it's"], "tag_probs": [0.9, 0.8, 0.7, 0.6]},
        {"tag_tags": None, "tag_probs": None},
    ],
    "not sorted by probability, or has a tag twice": [
        {"tag_tags": ["a", "b"], "tag_probs": [0.5, 0.9]},
        {"tag_tags": ["a", "a"], "tag_probs": [0.9, 0.5]},
    ],
    "in the model's vocabulary": [
        {"tag_tags": ["a", "rare"], "tag_probs": [0.9, 0.5]},
        {"tag_tags": [None], "tag_probs": [0.9]},
    ],
}


@pytest.mark.parametrize(("what", "rows"), BAD.items())
def test_verify_finds_rows_that_cannot_be(what: str, rows: list[dict[str, Any]]) -> None:
    head = tags_head(top=3).fit(labels_of([*TRAIN, ["it's"], ["it's"]]))
    (sql,) = [sql for words, sql in head.bad_rows_sql().items() if what.removeprefix("not ") in words]
    schema = pa.schema(head.fields())
    empty = {"tag_tags": [], "tag_probs": []}
    for row, is_bad in [(GOOD, False), (empty, False), *((row, True) for row in rows)]:
        with duckdb.cursor() as connection:
            connection.register("scores", pa.Table.from_pylist([row], schema=schema))
            number = one_row(connection, f"SELECT count(*) FROM scores WHERE coalesce({sql}, true)")[0]
        assert number == is_bad, row


def test_nights_are_told_by_their_most_frequent_tags_and_those_that_are_new(fitted: TagsHead) -> None:
    def night(tags: list[list[str]]) -> pa.Table:
        probs = [[0.5] * len(row) for row in tags]
        return pa.Table.from_arrays(
            [pa.array(tags, LISTS), pa.array(probs, pa.list_(pa.float32()))],
            schema=pa.schema(fitted.fields()),
        )

    before, now = (fitted.histogram(night(rows)) for rows in ([["a"]] * 6, [["b", "a"]] * 4 + [["b"]] * 4))
    assert before.tolist() == [6, 0, 0]
    assert now.tolist() == [4, 8, 0]
    assert fitted.moved(now, before) == [
        "tag, new tags: b (8).",
        "tag, most frequent of all tags given: b 66.7% (before 0.0%), a 33.3% (before 100.0%).",
    ]
    assert fitted.moved(before, now)[0] == "tag, vanished tags: b (8)."
    assert fitted.histogram_labels() == ["a", "b", "c", "others"]
    assert fitted.summarised(now).tolist() == [4, 8, 0, 0]
    assert fitted.caption({"tag_tags": ["a"], "tag_probs": [0.5]}) == "a 0.50"


def test_a_parquet_file_has_a_dictionary_of_the_tags(fitted: TagsHead) -> None:
    rows = pa.Table.from_pylist([GOOD] * 9, schema=pa.schema(fitted.fields()))
    file = pq.ParquetFile(pa.BufferReader(parquet_bytes(rows)))
    group = file.metadata.row_group(0)
    encodings = {group.column(i).path_in_schema: group.column(i).encodings for i in range(2)}
    assert "RLE_DICTIONARY" in encodings["tag_tags.list.element"]
    assert "RLE_DICTIONARY" not in encodings["tag_probs.list.element"]
    assert file.read().equals(rows)
