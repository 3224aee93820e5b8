"""One published state of a scores folder: what its manifest says, and the files that it names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NotRequired, TypedDict

from pix2score.errors import DataError
from pix2score.snapshots.lists import CONSUMED, FileList, list_from_dict, read_consumed, read_lists
from pix2score.snapshots.tables import (
    SCHEMA_VERSION,
    TABLES,
    DataFile,
    Layout,
    TableName,
    data_file,
    layout_from_dict,
)
from pix2score.storage.folder import Folder


class RowCounts(TypedDict):
    """Rows of a snapshot."""

    rows: int
    ok: int
    failed: int
    failed_by_code: dict[str, int]
    kept: NotRequired[int]
    """Ok rows that keep the answer of an earlier content."""
    pending: NotRequired[int]
    """Rows not scored yet."""


class CatalogPin(TypedDict):
    """The catalog that was scored, and its files as they were."""

    uri: str
    files: list[dict[str, Any]]


class CarriedColumns(TypedDict):
    """Catalog columns that the scores table has as they were."""

    columns: dict[str, str]
    """Name -> type."""
    hash: str
    """Of the values of all keys."""


class Manifest(TypedDict):
    """A manifest as JSON; what earlier versions did not write is not required."""

    snapshot: int
    parent: int | None
    schema_version: int
    run: str
    model_version: str
    """As ``identity.with_engine`` has it."""
    trunk_version: NotRequired[str | None]
    """Of the model's trunk: one of the same heads answer from the stored embeddings."""
    layout: dict[str, Any]
    counts: RowCounts
    files: NotRequired[list[dict[str, Any]]]
    """``DataFile`` of each live file, where they are not too many."""
    lists: NotRequired[list[dict[str, Any]]]
    """``lists.FileList`` of each list that names them otherwise, and those of ``consumed``."""
    config: dict[str, Any]
    fingerprint_kind: str
    plan: NotRequired[dict[str, int]]
    """``ScoringCounts``."""
    carry: NotRequired[CarriedColumns | None]
    """Columns behind those of ``layout``, in the scores table."""
    runs: NotRequired[dict[str, int]]
    """Run -> ok rows whose embedding it made: its live embeddings."""
    consumed: NotRequired[list[str]]
    """Receipts of staged pieces that it publishes."""
    removed_runs: NotRequired[list[str]]
    """Runs that removed keys, newest last, whose removed rows are kept."""
    formats: NotRequired[list[str]]
    """Image formats that the run decoded."""
    places: NotRequired[list[str]]
    """Where images might come from."""
    catalog: NotRequired[CatalogPin]
    preprocess_id: NotRequired[str]
    published_at: NotRequired[str]
    account: NotRequired[dict[str, Any] | None]
    """What the run did and how fast."""
    compacted: NotRequired[int]
    """Embedding files that ``vacuum`` rewrote."""
    compaction_of: NotRequired[list[int]]
    """Snapshots before that hold the same scores."""
    restored_from: NotRequired[int]
    """The older snapshot whose files ``restore`` made live again."""
    published_by: NotRequired[str]
    """user@host that did so."""
    engine: NotRequired[dict[str, Any]]
    """Where fewer bits than float32 were asked for: what answered, and how near to it."""
    note: NotRequired[str]
    """Why it was published, in a person's words."""
    sha256: NotRequired[str]
    """Of the manifest's own bytes, with zeros in this place: see ``manifest.sealed``."""


@dataclass(frozen=True)
class Snapshot:
    """A published snapshot: its number and its manifest."""

    number: int
    manifest: Manifest
    folder: Folder | None = field(default=None, compare=False, repr=False)
    """Where its lists are, if it has any."""

    @cached_property
    def lists(self) -> tuple[FileList, ...]:
        """Lists that name its files and consumed receipts; none where its manifest does."""
        return () if "files" in self.manifest else tuple(map(list_from_dict, self.manifest.get("lists", ())))

    @property
    def files(self) -> tuple[DataFile, ...]:
        """Every live file. ``files_of`` and ``some_files`` read less where there are lists."""
        return tuple(file for table in TABLES for file in self.files_of(table))

    def files_of(self, table: TableName) -> list[DataFile]:
        """Live files of one table; those of SCORES in key order. Raises ``DataError`` as ``some_files``."""
        if table not in self._read:
            self._read[table] = [file for some in self.some_files(table) for file in some]
        return list(self._read[table])

    def some_files(self, *tables: TableName) -> Iterator[list[DataFile]]:
        """Live files of ``tables``, some thousands at a time; nothing of them is kept.

        Raises ``DataError`` naming a list that is missing or was altered, or the manifest if it does not name
        files as it should.
        """
        if "files" in self.manifest:
            yield self._named(tables)
        elif self.folder:
            yield from read_lists(self.folder, [one for one in self.lists if one.table in tables])

    def _named(self, tables: tuple[TableName, ...]) -> list[DataFile]:
        try:
            return [data_file(file) for file in self.manifest["files"] if file["table"] in tables]
        except (TypeError, KeyError, AttributeError) as exc:
            raise DataError(f"the manifest of snapshot {self.number} was altered: {exc!r}") from None

    @cached_property
    def _read(self) -> dict[TableName, list[DataFile]]:
        return {}

    @property
    def num_files(self) -> int:
        """Live files, counted without reading lists."""
        return len(self.manifest["files"]) if "files" in self.manifest else self._total("files")

    @property
    def num_bytes(self) -> int:
        """Bytes of all live files, likewise."""
        if "files" in self.manifest:
            return sum(file["bytes"] for file in self.manifest["files"])
        return self._total("file_bytes")

    def _total(self, name: str) -> int:
        return sum(getattr(one, name) for one in self.lists if one.table != CONSUMED)

    @property
    def content(self) -> frozenset[str]:
        """What tells its files from those of another snapshot, without reading lists."""
        if "files" in self.manifest:
            return frozenset(file["path"] for file in self.manifest["files"])
        return frozenset(one.sha256 for one in self.lists if one.table != CONSUMED)

    @property
    def consumed(self) -> list[str]:
        """Receipts of staged pieces that it publishes. Raises ``DataError`` as ``some_files``."""
        listed = read_consumed(self.folder, self.lists) if self.folder else []
        return [*self.manifest.get("consumed", ()), *listed]

    @property
    def same_scores(self) -> tuple[int, ...]:
        """Numbers of the snapshots before whose embeddings ``vacuum`` compacted into this one's."""
        return tuple(self.manifest.get("compaction_of") or ())

    @cached_property
    def layout(self) -> Layout:
        """Columns of its tables."""
        return layout_from_dict(self.manifest["layout"], min(SCHEMA_VERSION, self.manifest["schema_version"]))
