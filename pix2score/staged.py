"""Finished pieces of runs not yet published. A receipt, written last, proves a piece; a later run may publish what another staged."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pix2score.layout import DataFile, Layout, data_file, write_file
from pix2score.storage import Folder

logger = logging.getLogger(__name__)

STAGED = "staged"


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What a run scores with, and what it was asked for: pieces of another origin may not fit."""

    run: str
    model_version: str
    parent: int
    """Number of the live snapshot when the run was planned."""
    full: bool = False
    """Whether everything was to be scored again: a run under ``--full`` takes up only such pieces."""


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
    """``bytes`` fetched, and seconds that tasks were busy with ``fetch``, ``decode``, ``model`` and ``write``."""
    retried: int = 0
    """Rows that were tried only because they had failed before."""
    failed_again: int = 0
    """Those of them that failed once more."""

    @property
    def path(self) -> str:
        """Where it stands in the scores folder."""
        return f"{STAGED}/{self.origin.run}/{self.piece}.json"

    def file(self, table: str) -> DataFile | None:
        """Its file of ``table``."""
        return next((file for file in self.files if file.table == table), None)

    @property
    def scores(self) -> DataFile:
        """Its SCORES rows."""
        return next(file for file in self.files if file.table == "scores")


def write_piece(
    folder: Folder,
    origin: Origin,
    piece: str,
    layout: Layout,
    scores: pa.Table,
    embeddings: pa.Table,
    measure: Callable[[], dict[str, float]] = dict,
    is_retry: pa.ChunkedArray | None = None,
) -> Receipt:
    """Both tables are in storage and a receipt names them; a receipt already there wins and is returned.

    Safe to run twice: the file names are new each time, the receipt's is not, so a retried piece counts once.
    """
    name = uuid.uuid4().hex[:16]
    files = [write_file(folder, "scores", f"{STAGED}/{origin.run}/{name}.parquet", scores)]
    if embeddings.num_rows:
        files.append(write_file(folder, "embeddings", f"embeddings/{origin.run}/part-{name}.parquet", embeddings))
    receipt = Receipt(
        piece=piece,
        origin=origin,
        id_type=str(layout.id_type),
        embedding_dtype=layout.embedding_dtype,
        rows=scores.num_rows,
        failed=failed_by_code(scores),
        retried=0 if is_retry is None else pc.sum(is_retry).as_py() or 0,
        failed_again=0 if is_retry is None else pc.sum(pc.and_(is_retry, pc.is_valid(scores.column("error_code")))).as_py() or 0,
        files=tuple(files),
        measured=measure(),  # asked last, so that writing is in it
    )
    try:
        folder.publish(receipt.path, json.dumps(asdict(receipt)).encode())
    except FileExistsError:
        folder.delete([file.path for file in files])
        return read_receipt(folder.read(receipt.path))
    return receipt


def failed_by_code(scores: pa.Table) -> dict[str, int]:
    """Error code -> number of rows of a SCORES table."""
    codes = scores.column("error_code").drop_null().value_counts().to_pylist()
    return {entry["values"]: entry["counts"] for entry in codes}


def read_receipt(data: bytes) -> Receipt:
    """The receipt that ``data`` holds. Raises ``ValueError``, ``KeyError`` or ``TypeError`` if it is none."""
    plain: dict[str, Any] = json.loads(data)
    return Receipt(**{**plain, "origin": Origin(**plain["origin"]), "files": tuple(data_file(file) for file in plain["files"])})


def staged_receipts(folder: Folder) -> list[Receipt]:
    """Receipts of every run whose pieces still stand, oldest run first. One that cannot be read is left out with a warning."""
    entries = (folder / STAGED).entries(suffix=".json")
    receipts = []
    for path, data in folder.read_many([f"{STAGED}/{entry.path}" for entry in entries]).items():
        try:
            receipts.append(read_receipt(data))
        except (ValueError, KeyError, TypeError) as exc:
            logger.warning("%s is not a receipt of this version and is left alone: %r", folder.full(path), exc)
    return receipts


def fitting(receipts: list[Receipt], origin: Origin, layout: Layout) -> list[Receipt]:
    """Those whose rows a run of ``origin`` may publish: same model, same columns; under ``--full`` only pieces of an equal ``--full``."""
    return [
        receipt
        for receipt in receipts
        if receipt.origin.model_version == origin.model_version
        and (receipt.id_type, receipt.embedding_dtype) == (str(layout.id_type), layout.embedding_dtype)
        and (not origin.full or (receipt.origin.full and receipt.origin.parent == origin.parent))
    ]
