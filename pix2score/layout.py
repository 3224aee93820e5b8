"""What a scores folder is made of: the columns of its two tables, and one immutable Parquet file of either.

    snapshots/00000042.json             created if absent: that is the commit; live = the greatest number (``snapshot``)
    scores/<run>/part-*.parquet         the narrow table, sorted by key, written anew whenever anything changed (``rewrite``)
    embeddings/<run>/part-*.parquet     written once; a row is live if SCORES names that run for its key
    dead/<run>/part-*.parquet           keys whose embedding is no longer live, with the run whose files hold it
    staged/<run>/…                      plan, pieces and receipts of runs not yet published (``staged``)
    runs/<run>/summary.json             what every run did, also after a failure

Readers follow the manifest and never list a folder.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from pix2score.engine import parquet_bytes
from pix2score.heads import HeadSpec, head_from_dict
from pix2score.schema import EmbeddingDtype, dead_schema, embeddings_schema, scores_schema
from pix2score.storage import Folder

Table = Literal["scores", "embeddings", "dead"]
Key = tuple[int | str, int]
ROW_GROUP_ROWS = {
    "scores": 65_536,  # about 20 MB: small enough to skip by key, large enough to compress
    "embeddings": 8_192,  # 32 MB of float16[2048]
    "dead": 65_536,
}


@dataclass(frozen=True, slots=True)
class DataFile:
    """One immutable Parquet file of a snapshot or piece."""

    table: Table
    path: str
    rows: int
    bytes: int
    sha256: str
    first_key: tuple[int | str, int] | None = None
    """Smallest key, in files of the narrow table: they follow each other in key order."""

    @property
    def run(self) -> str:
        """The run that wrote it."""
        return self.path.split("/")[1]


def data_file(plain: dict[str, Any]) -> DataFile:
    """The ``DataFile`` that ``dataclasses.asdict`` and JSON made plain."""
    first = plain.get("first_key")
    return DataFile(**{**plain, "first_key": tuple(first) if first else None})


@dataclass(frozen=True, slots=True)
class Layout:
    """What the columns of a scores folder are made from."""

    id_type: pa.DataType
    heads: tuple[HeadSpec, ...]
    embedding_dim: int
    embedding_dtype: EmbeddingDtype

    @property
    def scores(self) -> pa.Schema:
        """Schema of the narrow table."""
        return scores_schema(self.id_type, self.heads)

    @property
    def embeddings(self) -> pa.Schema:
        """Schema of the embedding files."""
        return embeddings_schema(self.id_type, self.embedding_dim, self.embedding_dtype)

    def schema_of(self, table: Table) -> pa.Schema:
        """Schema of the files of ``table``."""
        return {"scores": self.scores, "embeddings": self.embeddings, "dead": dead_schema(self.id_type)}[table]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        heads = [head.to_dict() for head in self.heads]
        embedding = {"dim": self.embedding_dim, "dtype": self.embedding_dtype}
        return {"id_type": str(self.id_type), "heads": heads, "embedding": embedding}


def layout_from_dict(plain: dict[str, Any]) -> Layout:
    """The ``Layout`` that ``to_dict`` wrote."""
    id_type = pa.int64() if plain["id_type"] == "int64" else pa.string()
    heads = tuple(head_from_dict(h) for h in plain["heads"])
    return Layout(id_type, heads, plain["embedding"]["dim"], plain["embedding"]["dtype"])


def write_file(folder: Folder, table: Table, path: str, rows: pa.Table) -> DataFile:
    """``rows`` stand at ``path``, whole. Raises as ``Folder.publish``: a path is never used twice."""
    data = parquet_bytes(rows, row_group_rows=ROW_GROUP_ROWS[table])
    size = folder.publish(path, data)
    return DataFile(
        table, path, rows.num_rows, size, hashlib.sha256(data).hexdigest(), _first_key(rows) if table == "scores" else None
    )


def unique_path(table: Table, run: str) -> str:
    """A path for a file of ``table`` that nothing was ever written to: a task that Ray runs twice leaves two files, one of them unnamed."""
    return f"{table}/{run}/part-{uuid.uuid4().hex[:16]}.parquet"


def _first_key(rows: pa.Table) -> Key | None:
    return (rows.column("illust_id")[0].as_py(), rows.column("page")[0].as_py()) if rows.num_rows else None
