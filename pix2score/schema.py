"""Arrow schemas of every file that stages exchange, and the one function that checks a file against them.

Plain types only, so that DuckDB, Polars and pyarrow read the files as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import pyarrow as pa

from pix2score.errors import DataError
from pix2score.heads import HeadSpec

SCHEMA_VERSION = 1
"""Of SCORES and EMBEDDINGS; stands in every manifest."""

EmbeddingDtype: TypeAlias = Literal["float16", "float32"]
KEY = ("illust_id", "page")
OK, FAILED = "ok", "failed"
SPLITS = ("train", "val", "test")


def key_fields(id_type: pa.DataType) -> list[pa.Field]:
    """The two columns of a key; ``id_type`` is int64 or string, as in the catalog."""
    return [pa.field("illust_id", id_type, nullable=False), pa.field("page", pa.int32(), nullable=False)]


def plan_schema(id_type: pa.DataType, label_types: Sequence[tuple[str, pa.DataType]] = ()) -> pa.Schema:
    """One row per illustration to be worked on.

    ``uri`` names the image, or ``file`` and ``row`` the catalog file (relative path) and row that embed it. ``fingerprint`` is
    ``kind:value``. ``group`` and ``split`` and the raw labels ``<h>_label`` are for prepare.
    """
    labels = [pa.field(f"{head}_label", t) for head, t in label_types]
    return pa.schema(
        [
            *key_fields(id_type),
            pa.field("uri", pa.string()),
            pa.field("file", pa.string()),
            pa.field("row", pa.int64()),
            pa.field("fingerprint", pa.string()),
            pa.field("group", pa.string()),
            pa.field("split", pa.string()),
            *labels,
        ]
    )


def scoring_schema(id_type: pa.DataType) -> pa.Schema:
    """``plan_schema`` with ``attempts``, how often this content failed before, and ``is_retry``: it is tried for nothing but that."""
    tried = [pa.field("attempts", pa.int16(), nullable=False), pa.field("is_retry", pa.bool_(), nullable=False)]
    return pa.schema([*plan_schema(id_type), *tried])


def dataset_schema(id_type: pa.DataType, label_types: Sequence[tuple[str, pa.DataType]]) -> pa.Schema:
    """One training image: encoded bytes, raw label per head (null where missing) and its bin (-1 where missing)."""
    labels = [pa.field(f"{head}_label", t) for head, t in label_types]
    bins = [pa.field(f"{head}_bin", pa.int16(), nullable=False) for head, _ in label_types]
    return pa.schema(
        [*key_fields(id_type), pa.field("group", pa.string()), pa.field("image", pa.binary(), nullable=False), *labels, *bins]
    )


def _ordered_fields(head: HeadSpec) -> list[pa.Field]:
    return [
        pa.field(f"{head.name}_bin", pa.int16()),
        pa.field(f"{head.name}_probs", pa.list_(pa.float32(), head.num_bins)),
        pa.field(f"{head.name}_score", pa.float32()),
        pa.field(f"{head.name}_expected", pa.float32()),
    ]


_FIELDS_BY_KIND = {"bins": _ordered_fields, "levels": _ordered_fields}


def head_fields(head: HeadSpec) -> list[pa.Field]:
    """Output columns of one head, all nullable: a failed row has none of them."""
    return _FIELDS_BY_KIND[head.kind](head)


def scores_schema(id_type: pa.DataType, heads: Sequence[HeadSpec]) -> pa.Schema:
    """SCORES: one row per catalog key, ``ok`` with predictions or ``failed`` with an ``error_code``."""
    return pa.schema(
        [
            *key_fields(id_type),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error_code", pa.string()),
            pa.field("error_detail", pa.string()),
            pa.field("attempts", pa.int16(), nullable=False),
            *(field for head in heads for field in head_fields(head)),
            pa.field("fingerprint", pa.string()),
            pa.field("run", pa.string(), nullable=False),
            pa.field("scored_at", pa.timestamp("us", tz="UTC"), nullable=False),
        ]
    )


def embeddings_schema(id_type: pa.DataType, dim: int, dtype: EmbeddingDtype = "float16") -> pa.Schema:
    """EMBEDDINGS: the pooled feature that the heads see, one row per ``ok`` key."""
    element = pa.float16() if dtype == "float16" else pa.float32()
    return pa.schema([*key_fields(id_type), pa.field("embedding", pa.list_(element, dim), nullable=False)])


def dead_schema(id_type: pa.DataType) -> pa.Schema:
    """Keys whose embedding in the files of ``run`` is no longer live."""
    return pa.schema([*key_fields(id_type), pa.field("run", pa.string(), nullable=False)])


def taken_schema(id_type: pa.DataType) -> pa.Schema:
    """Keys taken up from staged pieces: ``run`` that staged the row, and ``piece``, the path of the SCORES file that holds it."""
    return dead_schema(id_type).append(pa.field("piece", pa.string(), nullable=False))


def validate(found: pa.Schema, expected: pa.Schema, what: str) -> None:
    """Raise ``DataError`` naming ``what`` and every column that is missing, surplus or of another type."""
    problems = [f"lacks {f.name}" for f in expected if f.name not in found.names]
    problems += [f"has unknown {f.name}" for f in found if f.name not in expected.names]
    for field in expected:
        if field.name in found.names and not found.field(field.name).type.equals(field.type):
            problems.append(f"{field.name} is {found.field(field.name).type}, expected {field.type}")
    if problems:
        raise DataError(f"{what}: {'; '.join(problems)}")
