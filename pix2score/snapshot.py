"""The scores folder: pieces staged while a run works, and numbered snapshots that say which files are live.

    snapshots/00000042.json          created if absent: that is the commit; live = the greatest number
    scores/<run>/part-*.parquet      the narrow table, sorted by key
    embeddings/<run>/part-*.parquet  written once, next to the piece that holds their scores
    staged/<run>/…                   plan, pieces and receipts of runs not yet published
    runs/<run>/summary.json          what every run did, also after a failure

Readers follow the manifest and never list a folder.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pds

from pix2score.engine import engine, load, one_row, parquet_batches, parquet_bytes, query
from pix2score.errors import ConflictError, DataError, StorageError
from pix2score.heads import HeadSpec, head_from_dict
from pix2score.schema import SCHEMA_VERSION, EmbeddingDtype, embeddings_schema, scores_schema
from pix2score.storage import Folder

PART_ROWS = 250_000
ROW_GROUP_ROWS = 65_536  # about 20 MB of scores: small enough to skip by key, large enough to compress
EMBEDDING_ROW_GROUP_ROWS = 8_192  # 32 MB of float16[2048]
SNAPSHOTS = "snapshots"


@dataclass(frozen=True, slots=True)
class DataFile:
    """One immutable Parquet file of a snapshot or piece."""

    table: str
    path: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """Proof that a piece is finished: written last, it names the piece's files and what they hold."""

    piece: str
    run: str
    model_version: str
    rows: int
    failed: dict[str, int]
    """Error code -> number of rows."""
    files: tuple[DataFile, ...]


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A published snapshot: its number and its manifest."""

    number: int
    manifest: dict[str, Any]

    @property
    def files(self) -> list[DataFile]:
        """Every live file."""
        return [DataFile(**file) for file in self.manifest["files"]]

    @property
    def layout(self) -> Layout:
        """Columns of its tables."""
        return layout_from_dict(self.manifest["layout"])


def new_run_id(now: str) -> str:
    """A name never used before that sorts by time; ``now`` as 20261121T080000."""
    return f"{now}-{uuid.uuid4().hex[:8]}"


def write_piece(folder: Folder, run: str, piece: str, model_version: str, scores: pa.Table, embeddings: pa.Table) -> Receipt:
    """Both tables are in storage and a receipt names them; a receipt already there wins and is returned.

    Safe to run twice: the file names are new each time, the receipt's is not, so a retried piece counts once.
    """
    name = uuid.uuid4().hex[:16]
    files = [_write(folder, "scores", f"staged/{run}/{name}.parquet", scores, ROW_GROUP_ROWS)]
    if embeddings.num_rows:
        path = f"embeddings/{run}/part-{name}.parquet"
        files.append(_write(folder, "embeddings", path, embeddings, EMBEDDING_ROW_GROUP_ROWS))
    codes = scores.column("error_code").drop_null().value_counts().to_pylist()
    failed = {entry["values"]: entry["counts"] for entry in codes}
    receipt = Receipt(piece, run, model_version, scores.num_rows, failed, tuple(files))
    path = f"staged/{run}/{piece}.json"
    try:
        folder.publish(path, json.dumps(asdict(receipt)).encode())
    except FileExistsError:
        folder.delete([file.path for file in files])
        return read_receipt(folder, path)
    return receipt


def read_receipt(folder: Folder, path: str) -> Receipt:
    """The receipt at ``path``."""
    plain = json.loads(folder.read(path))
    return Receipt(**{**plain, "files": tuple(DataFile(**file) for file in plain["files"])})


def _write(folder: Folder, table_name: str, path: str, table: pa.Table, row_group_rows: int) -> DataFile:
    data = parquet_bytes(table, row_group_rows=row_group_rows)
    size = folder.publish(path, data)
    return DataFile(table_name, path, table.num_rows, size, hashlib.sha256(data).hexdigest())


def assemble(folder: Folder, run: str, pieces: Sequence[str], layout: Layout, num_expected: int) -> list[DataFile]:
    """The narrow table of ``run`` is written, sorted by key, from the staged score pieces; its files are returned.

    Out of core. Raises ``StorageError`` if the pieces do not hold ``num_expected`` rows with distinct keys: nothing may be published then.
    """
    schema = layout.scores
    with engine() as connection:
        load(connection, "rows", schema, parquet_batches(folder, pieces))
        num_rows, num_keys = one_row(
            connection, "SELECT count(*), (SELECT count(*) FROM (SELECT DISTINCT illust_id, page FROM rows)) FROM rows"
        )
        if not num_rows == num_keys == num_expected:
            raise StorageError(f"run {run} staged {num_rows} rows with {num_keys} keys, planned {num_expected}: not published")
        tables = query(connection, "SELECT * FROM rows ORDER BY illust_id, page", schema, PART_ROWS)
        return [
            _write(folder, "scores", f"scores/{run}/part-{number:05}.parquet", table, ROW_GROUP_ROWS)
            for number, table in enumerate(tables)
        ]


def publish(folder: Folder, parent: int, manifest: dict[str, Any]) -> Snapshot:
    """The snapshot after ``parent`` is live. Raises ``ConflictError`` if another run made that number first."""
    number = parent + 1
    content = {"snapshot": number, "parent": parent or None, "schema_version": SCHEMA_VERSION, **manifest}
    try:
        folder.publish(_path(number), json.dumps(content, indent=1, ensure_ascii=False).encode())
    except FileExistsError:
        raise ConflictError(f"another run published snapshot {number} of {folder.uri} first: run again") from None
    return Snapshot(number, content)


def _path(number: int) -> str:
    return f"{SNAPSHOTS}/{number:08}.json"


def live_number(folder: Folder) -> int:
    """Number of the live snapshot, 0 if there is none."""
    names = [entry.path.removesuffix(".json") for entry in (folder / SNAPSHOTS).top_entries(suffix=".json")]
    return max((int(name) for name in names if name.isdigit()), default=0)


def live(place: str) -> Snapshot:
    """The live snapshot of a scores folder.

    Raises:
        DataError: no snapshot there, or its manifest is not one of a known version.
    """
    folder = Folder(place)
    number = live_number(folder)
    if not number:
        raise DataError(f"no scores at {place}: expected snapshots/00000001.json there")
    where = folder.full(_path(number))
    try:
        manifest = json.loads(folder.read(_path(number)))
        version = manifest["schema_version"]
    except (ValueError, KeyError, TypeError) as exc:
        raise DataError(f"{where} is not a snapshot manifest: {exc!r}") from None
    if version != SCHEMA_VERSION:
        raise DataError(f"{where} has schema version {version}; this version of pix2score reads {SCHEMA_VERSION}")
    return Snapshot(number, manifest)


def _dataset(place: str, table: str) -> pds.Dataset:
    folder, snapshot = Folder(place), live(place)
    schema = snapshot.layout.scores if table == "scores" else snapshot.layout.embeddings
    paths = [folder.fs._strip_protocol(folder.full(f.path)) for f in snapshot.files if f.table == table]
    return pds.dataset(paths, schema=schema, format="parquet", filesystem=folder.fs)


def read_scores(place: str) -> pds.Dataset:
    """SCORES of the live snapshot as a ``pyarrow.dataset``: each catalog key once, ``ok`` or ``failed``.

    Columns: ``schema.scores_schema``. Raises ``DataError`` if there is no snapshot at ``place``.
    """
    return _dataset(place, "scores")


def read_embeddings(place: str) -> pds.Dataset:
    """EMBEDDINGS of the live snapshot as a ``pyarrow.dataset``: one row per ``ok`` key.

    Columns: ``illust_id``, ``page``, ``embedding`` (fixed list of float16 or float32). Raises ``DataError`` as ``read_scores``.
    """
    return _dataset(place, "embeddings")


def batches_of(folder: Folder, files: Sequence[DataFile], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of snapshot files, streamed."""
    return parquet_batches(folder, [file.path for file in files], columns)
