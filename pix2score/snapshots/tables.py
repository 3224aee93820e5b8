"""What a scores folder is made of: the columns of its two tables, and one immutable Parquet file of either.

    snapshots/00000042.json          created if absent: that is the commit; live = the greatest number
                                     (``manifest``)
    scores/<run>/part-*.parquet      the scores table, sorted by key; a file is rewritten whenever anything in
                                     its range changed (``nightly.ranges``)
    embeddings/<run>/part-*.parquet  written once; a row is live if SCORES names that run as the key's
                                     ``embedding_run``
    dead/<run>/part-*.parquet        keys whose embedding is no longer live, with the run whose files hold it
                                     (those that ``vacuum`` put in order: ``dead``)
    hashes/*.parquet                 of images that lie in the catalog, by its files (``catalog.hashes``)
    lists/<run>/*.parquet            the files of a snapshot that has thousands of them (``lists``)
    removed/<run>/part-*.parquet     rows of keys that left the catalog of late: they come back as they were
                                     (``nightly.returned``)
    staged/<run>/…                   plan, pieces and receipts of runs not yet published (``pieces``)
    leases/<run>.json                a run that can still publish (``leases``)
    runs/<run>/summary.json          what every run did, also after a failure

Readers follow the manifest and never list a folder.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pix2score.catalog.keys import KEY, Key, key_fields
from pix2score.errors import DataError
from pix2score.heads.kinds import head_from_dict
from pix2score.heads.spec import HeadSpec
from pix2score.snapshots.damage import Named, checked_content
from pix2score.storage.folder import Folder
from pix2score.storage.parquet import parquet_bytes

SCHEMA_VERSION = 2
"""Of SCORES and EMBEDDINGS; it is in every manifest."""
LISTED_VERSION = 3
"""Of a manifest whose files are named in lists (``lists``); its tables are those of ``SCHEMA_VERSION``."""
READABLE_VERSIONS = (1, 2, 3)
"""In the first, SCORES has no ``embedding_run``: the run that scored a row embedded it."""

EMBEDDING_RUN = "embedding_run"
EmbeddingDtype: TypeAlias = Literal["float16", "float32"]
OK, FAILED, PENDING = "ok", "failed", "pending"
TableName = Literal["scores", "embeddings", "dead", "removed"]
TABLES: tuple[TableName, ...] = ("scores", "embeddings", "dead", "removed")
ROW_GROUP_ROWS = {
    "scores": 65_536,  # about 20 MB: small enough to skip by key, large enough to compress
    "embeddings": 8_192,  # 32 MB of float16[2048]
    "dead": 65_536,
    "removed": 65_536,
}


def scores_schema(
    id_type: pa.DataType, heads: Sequence[HeadSpec], version: int = SCHEMA_VERSION
) -> pa.Schema:
    """SCORES: one row per catalog key.

    ``ok`` with predictions, ``failed`` with an ``error_code``, or ``pending``: it was not scored yet.
    ``run`` gave the answer, ``embedding_run`` the embedding that it is of: in EMBEDDINGS the key's row of
    that run. They differ where heads answered from a stored embedding.
    """
    return pa.schema(
        [
            *key_fields(id_type),
            pa.field("status", pa.string(), nullable=False),
            pa.field("error_code", pa.string()),
            pa.field("error_detail", pa.string()),
            pa.field("attempts", pa.int16(), nullable=False),
            *(field for head in heads for field in head.fields()),
            pa.field("fingerprint", pa.string()),
            pa.field("run", pa.string(), nullable=False),
            *([pa.field(EMBEDDING_RUN, pa.string())] if version > 1 else []),
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


def resumed_schema(id_type: pa.DataType) -> pa.Schema:
    """Keys resumed from staged pieces: ``run`` that staged the row, ``piece``: the SCORES file it is in."""
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


@dataclass(frozen=True, slots=True)
class DataFile:
    """One immutable Parquet file of a snapshot or piece."""

    table: TableName
    path: str
    rows: int
    bytes: int
    sha256: str
    first_key: Key | None = None
    """Smallest key, in files of the scores table: they follow each other in key order."""
    failed: dict[str, int] | None = None
    """Error code -> failed rows, in files of the scores table; None in those of earlier versions."""
    runs: dict[str, int] | None = None
    """Run -> ok rows whose embedding it made, likewise."""
    kept: int = 0
    """Ok rows that keep the answer of an earlier content, likewise."""
    pending: int = 0
    """Rows not scored yet, likewise."""
    version: int = 1
    """Of its schema."""

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
    version: int = SCHEMA_VERSION

    @property
    def scores(self) -> pa.Schema:
        """Schema of the scores table."""
        return scores_schema(self.id_type, self.heads, self.version)

    @property
    def embedding_run(self) -> str:
        """Column of the scores table that names the run whose files hold a row's embedding."""
        return EMBEDDING_RUN if self.version > 1 else "run"

    @property
    def embeddings(self) -> pa.Schema:
        """Schema of the embedding files."""
        return embeddings_schema(self.id_type, self.embedding_dim, self.embedding_dtype)

    def schema_of(self, table: TableName) -> pa.Schema:
        """Schema of the files of ``table``."""
        return {
            "scores": self.scores,
            "embeddings": self.embeddings,
            "dead": dead_schema(self.id_type),
            "removed": self.scores,
        }[table]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        heads = [head.to_dict() for head in self.heads]
        embedding = {"dim": self.embedding_dim, "dtype": self.embedding_dtype}
        return {"id_type": str(self.id_type), "heads": heads, "embedding": embedding}


def layout_from_dict(plain: dict[str, Any], version: int = SCHEMA_VERSION) -> Layout:
    """The ``Layout`` that ``to_dict`` wrote, of a snapshot with a schema of ``version``."""
    id_type = pa.int64() if plain["id_type"] == "int64" else pa.string()
    heads = tuple(head_from_dict(h) for h in plain["heads"])
    return Layout(id_type, heads, plain["embedding"]["dim"], plain["embedding"]["dtype"], version)


def write_file(folder: Folder, table: TableName, path: str, rows: pa.Table) -> DataFile:
    """Write ``rows`` to ``path``, whole, and return its facts.

    Raises as ``Folder.publish``: a path is never used twice.
    """
    data = parquet_bytes(rows, row_group_rows=ROW_GROUP_ROWS[table])
    size = folder.publish(path, data)
    facts = scores_facts(rows) if table == "scores" else {}
    digest = hashlib.sha256(data).hexdigest()
    return DataFile(table, path, rows.num_rows, size, digest, **facts, version=SCHEMA_VERSION)


FACT_COLUMNS = (*KEY, "status", "error_code", EMBEDDING_RUN)


def scores_facts(rows: pa.Table) -> dict[str, Any]:
    """What a ``DataFile`` says of the rows of a file of the scores table; they have ``FACT_COLUMNS``."""
    is_ok, has_code = pc.equal(rows.column("status"), OK), pc.is_valid(rows.column("error_code"))
    return {
        "first_key": _first_key(rows),
        "failed": failed_by_code(rows),
        "runs": ok_rows_by_run(rows),
        "kept": pc.sum(pc.and_(is_ok, has_code)).as_py() or 0,
        "pending": pc.sum(pc.equal(rows.column("status"), PENDING)).as_py() or 0,
    }


def upgraded(rows: pa.Table) -> pa.Table:
    """SCORES rows of any version with ``embedding_run``: in the first, the run that scored them."""
    if EMBEDDING_RUN in rows.column_names:
        return rows
    is_ok = pc.equal(rows.column("status"), OK)
    made_by = pc.if_else(is_ok, rows.column("run"), pa.scalar(None, pa.string()))
    return rows.append_column(EMBEDDING_RUN, made_by)


def scores_rows(data: bytes, columns: Sequence[str]) -> pa.Table:
    """Some columns of the SCORES rows in a Parquet file of any version."""
    file = pq.ParquetFile(pa.BufferReader(data))
    if EMBEDDING_RUN not in columns or EMBEDDING_RUN in file.schema_arrow.names:
        return file.read(columns=list(columns))
    stored = {*columns, "status", "run"} - {EMBEDDING_RUN}
    return upgraded(file.read(columns=sorted(stored))).select(list(columns))


def failed_by_code(scores: pa.Table) -> dict[str, int]:
    """Error code -> number of failed rows of a SCORES table."""
    codes = scores.column("error_code").filter(pc.equal(scores.column("status"), FAILED))
    return {entry["values"]: entry["counts"] for entry in codes.value_counts().to_pylist()}


def ok_rows_by_run(scores: pa.Table) -> dict[str, int]:
    """Run -> number of ok rows of a SCORES table whose embedding it made."""
    runs = scores.column(EMBEDDING_RUN).filter(pc.equal(scores.column("status"), OK))
    return {entry["values"]: entry["counts"] for entry in runs.value_counts().to_pylist()}


def checked_bytes(folder: Folder, file: DataFile) -> bytes:
    """Content of a file, as its manifest or receipt has it. Raises as ``checked_content``."""
    why = "its rows are not carried over; --full scores everything again"
    return checked_content(folder, file, missing="nothing was published", altered=why)


S = TypeVar("S", bound=Named)


def together(files: Iterable[S], num_bytes: float, most: int | None = None) -> Iterator[tuple[S, ...]]:
    """Files one after the other, about so many bytes at a time, and at most so many files."""
    some, size = list[S](), 0
    for file in files:
        some.append(file)
        size += file.bytes
        if size >= num_bytes or len(some) == most:
            yield tuple(some)
            some, size = [], 0
    if some:
        yield tuple(some)


def unique_path(table: TableName, run: str) -> str:
    """A path for a file of ``table`` that nothing was ever written to.

    A task that Ray runs twice leaves two files, one of them unnamed.
    """
    return f"{table}/{run}/part-{uuid.uuid4().hex[:16]}.parquet"


def _first_key(rows: pa.Table) -> Key | None:
    return (rows.column("illust_id")[0].as_py(), rows.column("page")[0].as_py()) if rows.num_rows else None
