"""Everything below a place, streamed as Arrow batches: of a disk folder by folder, of S3 by ranges of keys
side by side, of other stores page by page. Never all names at once, and in no order."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pyarrow as pa

from pix2score.errors import AccessError
from pix2score.storage.folder import Folder
from pix2score.storage.list_disk import walk
from pix2score.storage.list_s3 import objects_below
from pix2score.storage.places import is_remote, is_s3, named_errors, split
from pix2score.storage.remote_stores import is_plain

LISTED = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        pa.field("uri", pa.string()),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("tag", pa.string(), nullable=False),
        pa.field("modified", pa.timestamp("us", "UTC")),
        pa.field("note", pa.string()),
        pa.field("changed", pa.timestamp("us", "UTC")),
        pa.field("inode", pa.uint64()),
    ]
)
"""``path`` below the place; ``uri`` only where the path does not name the file, as its name is no UTF-8;
``tag`` changes with the content; ``note`` says why a name is no file to read, such as a link to elsewhere.
Only of a file on a disk, as another may take its place with the same size and time: ``changed``, when
anything about it was written last (ctime), and ``inode``, its number."""
ODD_KEY = "key that is not read there"
BATCH_ROWS = 10_000


def everything_below(folder: Folder) -> Iterator[pa.RecordBatch]:
    """Batches of ``LISTED``; none where nothing stands.

    Raises ``AccessError`` where a folder or the bucket may not be listed, with what it takes; ``DataError``
    if the bucket does not exist.
    """
    if is_s3(folder.uri):
        yield from _of_s3(folder)
    else:
        yield from _of_store(folder) if is_remote(folder.uri) else _of_disk(folder)


def _of_disk(folder: Folder) -> Iterator[pa.RecordBatch]:
    with named_errors(folder.uri):
        files = walk(folder.uri)
        while some := list(islice(files, BATCH_ROWS)):
            columns = zip(*some, strict=True)
            yield pa.record_batch(
                [pa.array(column, field.type) for column, field in zip(columns, LISTED, strict=True)],
                schema=LISTED,
            )


def _of_store(folder: Folder) -> Iterator[pa.RecordBatch]:
    root = len("/".join(filter(None, split(folder.uri)))) + 1
    with named_errors(folder.uri):
        for page in folder.fs.pages(folder.uri):
            rows = [
                {
                    "path": entry["name"][root:],
                    "size": entry["size"],
                    "tag": str(entry["ETag"]).strip('"'),
                    "modified": entry["LastModified"],
                    "note": None if is_plain(entry["name"].rstrip("/")) else ODD_KEY,
                }
                for entry in page
            ]
            yield pa.RecordBatch.from_pylist(rows, schema=LISTED)


def _of_s3(folder: Folder) -> Iterator[pa.RecordBatch]:
    bucket, key = split(folder.uri)
    try:
        with named_errors(folder.uri):
            for some in objects_below(folder.fs, bucket, f"{key}/" if key else ""):
                paths, sizes, tags, modified = zip(*some, strict=True)
                nulls = [None] * len(some)
                times = pa.array(modified, pa.string()).cast(LISTED.field("modified").type)
                found: dict[str, Any] = {"path": paths, "size": sizes, "tag": tags, "modified": times}
                columns = [pa.array(found.get(f.name, nulls), f.type) for f in LISTED]
                yield pa.record_batch(columns, schema=LISTED)
    except AccessError as exc:
        if str(exc).endswith("was refused"):
            what = f"listing {folder.uri} takes the permission s3:ListBucket on the bucket itself"
            raise AccessError(f"{exc}: {what}, beside s3:GetObject on its objects") from exc
        raise
