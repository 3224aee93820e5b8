"""What is in the buckets of Google Cloud Storage and Azure Blob: listed by obstore, and with every key as it
is (``verbatim``) where it meets one that it cannot spell."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from pix2score.errors import DataError
from pix2score.storage.remote_stores import OddKeyError, RemoteStores, checked_key
from pix2score.storage.verbatim import Found, ListingNotPossibleError

logger = logging.getLogger(__name__)
Info = dict[str, Any]
"""As fsspec tells of an object: ``name``, ``size``, ``type``, ``ETag``, ``LastModified``."""
PAGE = 1000


class RemoteListings(RemoteStores):
    """Listings of one kind of store, as fsspec tells them. Errors are those of ``RemoteStores.named``."""

    def everything(self, bucket: str, key: str) -> Iterator[list[Info]]:
        """All objects below the folder ``key``, by pages in the store's order."""
        if not key and self._has_slashes_before(bucket):
            yield from self._verbatim_pages(bucket, key, "")
            return
        last = ""
        try:
            with self.named(bucket, key):
                for metas in self.store(bucket).list(checked_key(key) or None, chunk_size=PAGE):
                    page = [object_info(bucket, meta) for meta in metas]
                    last = page[-1]["name"] if page else last
                    yield page
        except OddKeyError as odd:
            with self._told(odd):
                yield from self._verbatim_pages(bucket, key, last)

    def level(self, bucket: str, key: str) -> list[Info]:
        """What is directly in the folder ``key``: folders, then objects."""
        try:
            with self.named(bucket, key):
                found = self.store(bucket).list_with_delimiter(checked_key(key) or None)
        except OddKeyError as odd:
            with self._told(odd):
                return [*self._verbatim_level(bucket, key)]
        folders = [folder(f"{bucket}/{prefix}") for prefix in found["common_prefixes"]]
        return [*folders, *(object_info(bucket, meta) for meta in found["objects"])]

    def is_folder(self, bucket: str, key: str) -> bool:
        """Whether anything is below ``key``."""
        try:
            with self.named(bucket, key):
                return any(True for _ in self.store(bucket).list(checked_key(key) or None, chunk_size=1))
        except OddKeyError:
            return True

    def _has_slashes_before(self, bucket: str) -> bool:
        """Whether keys begin with a slash, which obstore leaves out: ``/a`` would be listed as ``a``."""
        try:
            return any(page.objects for page in self.verbatim(bucket, "/", most=1))
        except (ListingNotPossibleError, OSError, DataError) as exc:
            logger.debug("not known whether keys of %s begin with a slash: %s", bucket, type(exc).__name__)
            return False

    def _verbatim_pages(self, bucket: str, key: str, last: str) -> Iterator[list[Info]]:
        """All behind the object ``last``; from the first if that is empty."""
        is_behind = not last
        for page in self.verbatim(bucket, f"{key}/" if key else ""):
            infos = [_of_found(bucket, found) for found in page.objects]
            if is_behind:
                yield infos
                continue
            names = [info["name"].rstrip("/") for info in infos]  # as obstore has those of folder markers
            if last in names:
                is_behind = True
                yield infos[names.index(last) + 1 :]
        if not is_behind:
            raise DataError(f"{self.container} {bucket!r} changed while it was listed: run again")

    def _verbatim_level(self, bucket: str, key: str) -> Iterator[Info]:
        prefix = f"{key}/" if key else ""
        for page in self.verbatim(bucket, prefix, is_level=True):
            yield from (folder(f"{bucket}/{name.removesuffix('/')}") for name in page.folders)
            yield from (_of_found(bucket, found) for found in page.objects if found.path != prefix)

    @contextlib.contextmanager
    def _told(self, odd: OddKeyError) -> Iterator[None]:
        """The first listing's error where the other one takes what is not there."""
        try:
            yield
        except ListingNotPossibleError as exc:
            raise OddKeyError(f"{odd}; {exc}") from None


def folder(name: str) -> Info:
    """A folder by its full name."""
    return {"name": name, "size": 0, "type": "directory"}


def _of_found(bucket: str, found: Found) -> Info:
    return object_info(bucket, {**found._asdict(), "version": None})


def object_info(bucket: str, meta: Any) -> Info:
    """What obstore says of an object."""
    return {
        "name": f"{bucket}/{meta['path']}",
        "size": meta["size"],
        "type": "file",
        "ETag": meta["e_tag"] or meta["version"],
        "LastModified": meta["last_modified"],
    }
