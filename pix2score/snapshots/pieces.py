"""Finished pieces of runs not yet published.

A receipt, written last, proves a piece; a later run may publish what another staged.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.snapshots.damage import broken_files
from pix2score.snapshots.tables import DataFile, Layout, data_file, failed_by_code, write_file
from pix2score.storage.folder import Folder
from pix2score.storage.receipts import publish_receipt, read_receipts, receipt_bytes

logger = logging.getLogger(__name__)

STAGED = "staged"
RENEW_AFTER_S = 86_400.0
_BY_KEY = [("illust_id", "ascending"), ("page", "ascending")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a run scores with, and what it was asked for: pieces of another origin may not fit."""

    run: str
    model_version: str
    """As ``identity.with_engine`` has it, and so the trunk's."""
    parent: int
    """Number of the live snapshot when the run was planned."""
    trunk_version: str | None = None
    """Of the model's trunk, if its heads may answer from stored embeddings."""
    full: bool = False
    """Whether everything was to be scored again: a run under ``--full`` resumes only such pieces."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """Proof that a piece is finished: it names the piece's files and what they hold."""

    piece: str
    origin: Origin
    id_type: str
    embedding_dtype: str
    rows: int
    failed: dict[str, int]
    """Error code -> number of rows."""
    files: tuple[DataFile, ...]
    measured: dict[str, float] = field(default_factory=dict)
    """``bytes`` fetched, and seconds that tasks were busy with ``fetch``, ``decode``, ``model`` and
    ``write``."""
    retried: int = 0
    """Rows that were tried only because they had failed before."""
    failed_again: int = 0
    """Those of them that failed once more."""
    failed_again_by_code: dict[str, int] = field(default_factory=dict)
    """The same by error code."""
    repeated: dict[str, int] = field(default_factory=dict)
    """``repeats.of_piece``."""

    @property
    def path(self) -> str:
        """Where it is in the scores folder."""
        return f"{STAGED}/{self.origin.run}/{self.piece}.json"

    @property
    def is_staged(self) -> bool:
        """Whether it is below ``staged/``, and does not hold rows of a snapshot that are taken back."""
        return self.scores.path.startswith(f"{STAGED}/")

    def file(self, table: str) -> DataFile | None:
        """Its file of ``table``."""
        return next((file for file in self.files if file.table == table), None)

    @property
    def scores(self) -> DataFile:
        """Its SCORES rows."""
        return next(file for file in self.files if file.table in ("scores", "removed"))


def write_piece(
    folder: Folder,
    origin: Origin,
    piece: str,
    layout: Layout,
    scores: pa.Table,
    embeddings: pa.Table,
    measure: Callable[[], dict[str, float]] = dict,
    is_retry: pa.ChunkedArray | None = None,
    repeated: dict[str, int] | None = None,
) -> Receipt:
    """Write both tables, each sorted by key, and a receipt that names them; return it.

    A receipt already there wins and is returned. Safe to run twice: the file names are new each time, the
    receipt's is not, so a retried piece counts once.
    """
    name = uuid.uuid4().hex[:16]
    again = {} if is_retry is None else failed_by_code(scores.filter(is_retry))
    scores, embeddings = scores.sort_by(_BY_KEY), embeddings.sort_by(_BY_KEY)
    files = [write_file(folder, "scores", f"{STAGED}/{origin.run}/{name}.parquet", scores)]
    if embeddings.num_rows:
        files.append(
            write_file(folder, "embeddings", f"embeddings/{origin.run}/part-{name}.parquet", embeddings)
        )
    receipt = Receipt(
        piece=piece,
        origin=origin,
        id_type=str(layout.id_type),
        embedding_dtype=layout.embedding_dtype,
        rows=scores.num_rows,
        failed=failed_by_code(scores),
        retried=0 if is_retry is None else pc.sum(is_retry).as_py() or 0,
        failed_again=sum(again.values()),
        failed_again_by_code=again,
        repeated=repeated or {},
        files=tuple(files),
        measured=measure(),  # asked last, so that writing is in it
    )
    return publish_receipt(folder, receipt.path, receipt, [file.path for file in files], read_receipt)


def read_receipt(data: bytes) -> Receipt:
    """The receipt that ``data`` holds.

    Raises ``ValueError``, ``KeyError``, ``TypeError`` or ``AttributeError`` if it is none.
    """
    plain: dict[str, Any] = json.loads(data)
    receipt = Receipt(
        **{
            **plain,
            "origin": Origin(**plain["origin"]),
            "files": tuple(data_file(file) for file in plain["files"]),
        }
    )
    run = receipt.origin.run
    tops = [("scores", f"{STAGED}/{run}/"), ("embeddings", f"embeddings/{run}/")][: len(receipt.files)]
    if not tops or [file.table for file in receipt.files] != [table for table, _ in tops]:
        raise ValueError(f"its files are {[file.table for file in receipt.files]}")
    for file, (_, top) in zip(receipt.files, tops, strict=True):
        if (
            not file.path.startswith(top)
            or ".." in file.path
            or not isinstance(file.bytes, int)
            or not isinstance(file.rows, int)
        ):
            raise ValueError(f"it names {file.path!r}")
    if sum(receipt.failed.values()) > receipt.rows or receipt.scores.rows != receipt.rows:
        raise ValueError(f"{receipt.rows} rows, {receipt.scores.rows} in its file, {receipt.failed} failed")
    return receipt


def staged_receipts(folder: Folder) -> list[Receipt]:
    """Receipts of every run whose pieces still exist, oldest run first.

    One that cannot be read is left out with a warning.
    """
    entries = (folder / STAGED).entries(suffix=".json")
    return read_receipts(folder, [f"{STAGED}/{entry.path}" for entry in entries], _read_staged)


def _read_staged(path: str, data: bytes) -> Receipt:
    receipt = read_receipt(data)
    if receipt.path != path:
        raise ValueError(f"it is of {receipt.path}")
    return receipt


def standing(folder: Folder, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Those whose files all exist with the size that the receipt names.

    Each of the others is left out with a warning.
    """
    files = [file for receipt in receipts for file in receipt.files]
    broken = broken_files(folder, files)
    for path, what in broken.items():
        logger.warning("a staged piece is left out: %s %s", folder.full(path), what)
    return [receipt for receipt in receipts if not any(file.path in broken for file in receipt.files)]


def renew(folder: Folder, receipts: Sequence[Receipt]) -> None:
    """Write receipts again that are older than a day.

    So that pieces which a run resumes are as young as that run.
    """
    wanted = {receipt.path: receipt for receipt in receipts}
    runs = sorted({receipt.origin.run for receipt in receipts})
    entries = [
        (f"{STAGED}/{run}/{e.path}", e)
        for run in runs
        for e in (folder / f"{STAGED}/{run}").entries(suffix=".json")
    ]
    newest = max((entry.modified for _, entry in entries), default=0.0)
    now = max(newest, time.time())
    for path, entry in entries:
        if path in wanted and now - entry.modified > RENEW_AFTER_S:
            folder.publish(path, receipt_bytes(wanted[path]), replace=True)


def fitting(
    receipts: list[Receipt], origin: Origin, layout: Layout, parents: Collection[int] = ()
) -> list[Receipt]:
    """Those whose rows a run of ``origin`` may publish: same model, same columns.

    Under ``--full`` only pieces of an equal ``--full``. ``parents``: numbers of other snapshots that hold the
    same scores as ``origin.parent``.
    """
    same = {origin.parent, *parents}
    return [
        receipt
        for receipt in receipts
        if receipt.origin.model_version == origin.model_version
        and (receipt.id_type, receipt.embedding_dtype) == (str(layout.id_type), layout.embedding_dtype)
        and (not origin.full or (receipt.origin.full and receipt.origin.parent in same))
    ]
