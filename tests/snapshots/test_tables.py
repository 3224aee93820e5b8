"""Schemas: the columns of SCORES and EMBEDDINGS as documented, and that a check names every difference."""

from __future__ import annotations

import pyarrow as pa
import pytest

from pix2score.dataset.card import dataset_schema
from pix2score.errors import DataError
from pix2score.heads.ordered import OrderedHead
from pix2score.snapshots.tables import embeddings_schema, scores_schema, validate

HEAD = OrderedHead(name="bookmark", column="bookmarks", edges=(10, 30))


def test_scores_have_the_documented_columns_in_order() -> None:
    schema = scores_schema(pa.int64(), [HEAD])
    assert [(f.name, str(f.type), f.nullable) for f in schema] == [
        ("illust_id", "int64", False),
        ("page", "int32", False),
        ("status", "string", False),
        ("error_code", "string", True),
        ("error_detail", "string", True),
        ("attempts", "int16", False),
        ("bookmark_bin", "int16", True),
        ("bookmark_probs", str(pa.list_(pa.float32(), 3)), True),
        ("bookmark_score", "float", True),
        ("bookmark_expected", "float", True),
        ("fingerprint", "string", True),
        ("run", "string", False),
        ("embedding_run", "string", True),
        ("scored_at", "timestamp[us, tz=UTC]", False),
    ]


@pytest.mark.parametrize(("dtype", "element"), [("float16", pa.float16()), ("float32", pa.float32())])
def test_embeddings_are_fixed_lists_of_the_asked_type(dtype: str, element: pa.DataType) -> None:
    schema = embeddings_schema(pa.string(), 2048, dtype)
    assert schema.names == ["illust_id", "page", "embedding"]
    assert schema.field("embedding").type == pa.list_(element, 2048)
    assert schema.field("illust_id").type == pa.string()


def test_a_dataset_row_has_label_and_bin_of_every_head() -> None:
    heads = [OrderedHead(name=name, column=name, edges=(10, 30)) for name in ("bookmark", "beauty")]
    schema = dataset_schema(pa.int64(), heads, [("bookmark", pa.int64()), ("beauty", pa.float64())])
    assert schema.names[-4:] == ["bookmark_label", "beauty_label", "bookmark_bin", "beauty_bin"]
    assert not schema.field("bookmark_bin").nullable
    assert schema.field("bookmark_label").nullable


def test_equal_schemas_pass_in_any_column_order() -> None:
    schema = scores_schema(pa.int64(), [HEAD])
    validate(pa.schema(list(schema)[::-1]), schema, "x")


def test_a_refusal_names_every_missing_surplus_and_mistyped_column() -> None:
    expected = pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.int16())])
    found = pa.schema([("a", pa.int32()), ("c", pa.int16()), ("d", pa.string())])
    with pytest.raises(DataError) as caught:
        validate(found, expected, "part-0.parquet")
    assert str(caught.value) == "part-0.parquet: lacks b; has unknown d; a is int32, expected int64"
