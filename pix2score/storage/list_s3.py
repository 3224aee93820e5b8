"""Objects of a bucket, a page of 1,000 at a time, by ranges of keys side by side; keys verbatim.

A tenth of the CPU time of botocore's own answers: it takes 0.1 ms to understand the date of each object. Its
requests, signatures, retries and errors are used as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

import botocore.session
from botocore.config import Config
from botocore.exceptions import ClientError
from s3fs.errors import translate_boto_error

from pix2score.errors import StorageError
from pix2score.storage.key_ranges import NUM_THREADS, all_rows
from pix2score.storage.places import MAX_REQUESTS
from pix2score.storage.remote_stores import CONNECT_TIMEOUT_S, READ_TIMEOUT_S


class Listed(NamedTuple):
    """One object: key below the prefix, size in bytes, etag, and when it was written (ISO 8601)."""

    key: str
    size: int
    tag: str
    modified: str | None


_PARSED = "pix2score"
_NOTHING = b"<ListBucketResult/>"


def objects_below(fs: Any, bucket: str, prefix: str) -> Iterator[Sequence[Listed]]:
    """Every object whose key begins with ``prefix``, by pages in any order.

    ``fs``: the S3 filesystem whose endpoint and region are used. Raises what s3fs raises, and
    ``StorageError`` for a store that cannot list from a key on.
    """
    client = _client(fs)

    def page(after: str) -> tuple[list[Listed], bool]:
        start = {"StartAfter": prefix + after} if after else {}
        try:
            answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, **start)
        except ClientError as exc:
            raise translate_boto_error(exc) from exc
        rows, may_go_on = _page(answer, len(prefix))
        if after and rows and rows[0].key <= after:  # it would never end
            raise StorageError(
                f"bucket {bucket!r} cannot be listed: its store ignores StartAfter of ListObjectsV2"
            )
        return rows, may_go_on

    try:
        yield from all_rows(page)
    finally:
        client.close()


def _client(fs: Any) -> Any:
    fs.connect()
    meta = fs.s3.meta
    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=meta.endpoint_url,
        region_name=meta.region_name,
        config=Config(
            max_pool_connections=NUM_THREADS,
            connect_timeout=CONNECT_TIMEOUT_S,
            read_timeout=READ_TIMEOUT_S,
            retries={"mode": "standard", "max_attempts": MAX_REQUESTS},
        ),
    )
    client.meta.events.register("before-parse.s3.ListObjectsV2", _understand)
    return client


def _understand(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Read a page in place of botocore's parser, which is left an empty one; errors stay its own."""
    if response_dict["status_code"] != 200:
        return
    try:
        root = ElementTree.fromstring(response_dict["body"])
    except ElementTree.ParseError:  # botocore tries such an answer again
        return
    space = root.tag.rpartition("ListBucketResult")[0]
    customized_response_dict[_PARSED] = (
        [
            tuple(item.findtext(space + name) for name in ("Key", "Size", "ETag", "LastModified"))
            for item in root.iterfind(f"{space}Contents")
        ],
        root.findtext(f"{space}EncodingType") == "url",
        root.findtext(f"{space}IsTruncated") == "true",
    )
    response_dict["body"] = _NOTHING


def _page(answer: dict[str, Any], prefix_length: int) -> tuple[list[Listed], bool]:
    items, is_encoded, is_truncated = answer[_PARSED]
    rows = [
        Listed(
            (unquote_plus(key) if is_encoded else key)[prefix_length:],
            int(size),
            (tag or "").strip('"'),
            modified,
        )
        for key, size, tag, modified in items
        if key
    ]
    return rows, is_truncated
