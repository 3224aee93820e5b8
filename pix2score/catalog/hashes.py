"""Hashes of embedded images, kept from night to night: an unchanged catalog file is not read for them again.

    hashes/<32 hex digits>.parquet      ``sha256`` of each row of one catalog file, in order; null: no image

The name is made of the catalog's place and of path, size and etag of the file, so that whoever knows a
snapshot's catalog knows which of them it uses. A file of a disk has no more of an etag than its size and the
time that it says it was changed, which copying tools set: what the disk itself says of it is kept beside.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pix2score.errors import DataError, StorageError
from pix2score.storage.folder import Entry, Folder
from pix2score.storage.parquet import parquet_bytes
from pix2score.storage.places import is_remote

logger = logging.getLogger(__name__)
HASHES = "hashes"
_COLUMN, _WRITTEN = b"pix2score.column", b"pix2score.written"


def hashes_path(catalog: str, file: Mapping[str, Any]) -> str:
    """Where hashes of a catalog file are in a scores folder; ``file`` as in a manifest: path, size, etag."""
    named = "\0".join(str(part) for part in (catalog, file["path"], file["size"], file["etag"]))
    return f"{HASHES}/{hashlib.sha256(named.encode()).hexdigest()[:32]}.parquet"


@dataclass(slots=True)
class KeptHashes:
    """Hashes that earlier nights left in a scores folder, and those of tonight that are to be kept."""

    folder: Folder
    catalog: str
    new: dict[str, pa.Table] = field(default_factory=dict)
    """Path -> hashes, not written yet: a night with nothing to do writes nothing."""

    def of(self, entry: Entry, column: str, num_rows: int) -> pa.Array | None:
        """Hashes of all rows of a catalog file; None where they are not known."""
        try:
            data = self.folder.read(self._path(entry))
            rows = pq.read_table(pa.BufferReader(data))
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        is_fit = rows.schema.metadata == self._about(entry, column) and rows.num_rows == num_rows
        return rows.column(0).combine_chunks() if is_fit else None

    def add(self, entry: Entry, column: str, hashes: Sequence[pa.Array]) -> None:
        """Take note of the hashes of all rows of a catalog file."""
        schema = pa.schema([pa.field("sha256", pa.binary(32))], metadata=self._about(entry, column))
        texts = [text for some in hashes for text in some.to_pylist()]
        rows = pa.array([text and bytes.fromhex(text) for text in texts], pa.binary(32))
        self.new[self._path(entry)] = pa.table([rows], schema=schema)

    def keep(self) -> list[str]:
        """Write what was noted; return the paths. What cannot be written is hashed again another night."""
        written = []
        for path, rows in self.new.items():
            try:
                self.folder.publish(path, parquet_bytes(rows), replace=True)
                written.append(path)
            except (DataError, StorageError) as exc:
                logger.warning("hashes of embedded images are not kept: %s", exc)
        self.new.clear()
        return written

    def _about(self, entry: Entry, column: str) -> dict[bytes, bytes]:
        """Which column of which file the hashes are of."""
        return {_COLUMN: column.encode(), _WRITTEN: _written(f"{self.catalog}/{entry.path}").encode()}

    def _path(self, entry: Entry) -> str:
        return hashes_path(self.catalog, {"path": entry.path, "size": entry.size, "etag": entry.etag})


def _written(place: str) -> str:
    """Inode, and time of its last change by the disk's own account, which nobody can set; empty in a store,
    where the etag is of the content."""
    if is_remote(place):
        return ""
    status = os.stat(place)
    return f"{status.st_ino}-{status.st_ctime_ns}"


def as_text(hashes: pa.Array) -> pa.Array:
    """Kept hashes as ``digests`` has them."""
    return pa.array([h and h.hex() for h in hashes.to_pylist()], pa.string())


def digests(images: pa.Array, pool: Executor) -> pa.Array:
    """SHA-256 of each image in hexadecimal, null where there is none; threads share them."""
    return pa.array(pool.map(_digest, images), pa.string())


def _digest(image: pa.Scalar) -> str | None:
    return hashlib.sha256(image.as_buffer()).hexdigest() if image.is_valid else None
