"""How stores are reached by obstore, and its errors as Python's and ours: what Google Cloud Storage and Azure
Blob have in common. Retries are obstore's."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from abc import abstractmethod
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar
from urllib.request import Request

from pix2score.errors import AccessError, DataError
from pix2score.storage.verbatim import ListingQuery, ListingRefusedError, Page, verbatim_pages

MAX_RETRIES = 5
RETRY_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10
READ_TIMEOUT_S = 20  # between two reads, not for the whole: a stalled connection is given up and tried again
WHOLE_TIMEOUT_S = 120
WRITE_TIMEOUT_S = 600
"""Of a whole object. A reading timeout would count from the first byte that is sent."""
METADATA_TIMEOUT_S = 3.0

_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist|bucket_not_found", re.I)
_CODE = re.compile(r"<Code>(\w+)</Code>|x-ms-error-code: (\w+)")
_QUERY = re.compile(r"\?[^\s\"')]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class OddKeyError(DataError):
    """A listing met a key that obstore cannot spell."""


class OddKeyNotReadError(FileNotFoundError):
    """An object of such a key is asked for."""


class RemoteStores:
    """The buckets of one kind of store. Settings come from the environment.

    Errors are ``FileNotFoundError``, ``FileExistsError``, ``AccessError`` with words for the user, or
    ``OSError``; in none of them stands a key, a token or a signature.
    """

    protocol: ClassVar[str]
    container: ClassVar[str] = "bucket"
    """What the store calls the first part of a place."""
    refused: ClassVar[dict[str, str]] = {}
    """Code of a refusal -> what is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self._stores: dict[tuple[str, bool], Any] = {}

    @abstractmethod
    def new_store(self, bucket: str, options: dict[str, Any]) -> Any:
        """The obstore store of a bucket, with ``client_options`` and ``retry_config``.

        Raises ``AccessError`` where the settings are not complete.
        """

    @abstractmethod
    def rust_options(self, bucket: str) -> dict[str, str]:
        """Settings and credentials for other libraries on Rust's object store, by its names for them.

        Raises as ``new_store``.
        """

    def store(self, bucket: str, *, writing: bool = False) -> Any:
        """The obstore store of a bucket, made once. Raises ``AccessError``."""
        if (bucket, writing) not in self._stores:
            timeouts = (
                {"timeout": timedelta(seconds=WRITE_TIMEOUT_S)}
                if writing
                else {
                    "timeout": timedelta(seconds=WHOLE_TIMEOUT_S),
                    "read_timeout": timedelta(seconds=READ_TIMEOUT_S),
                }
            )
            options = {
                "client_options": {"connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S), **timeouts},
                "retry_config": {
                    "max_retries": MAX_RETRIES,
                    "retry_timeout": timedelta(seconds=RETRY_TIMEOUT_S),
                },
            }
            with self.named(bucket, ""):
                self._stores[bucket, writing] = self.new_store(bucket, options)
        return self._stores[bucket, writing]

    @contextlib.contextmanager
    def named(self, bucket: str, key: str) -> Iterator[None]:
        """obstore's errors as Python's, of an object of a bucket."""
        from obstore import exceptions as obs

        try:
            yield
        except OddKeyNotReadError:
            raise
        except FileNotFoundError as exc:
            if _NO_BUCKET.search(str(exc)):
                raise self.no_bucket(bucket) from None
            raise FileNotFoundError(
                errno.ENOENT, os.strerror(errno.ENOENT), f"{self.protocol}://{bucket}/{key}"
            ) from None
        except obs.AlreadyExistsError:
            raise FileExistsError(f"{self.protocol}://{bucket}/{key}") from None
        except (obs.BaseError, ValueError) as exc:
            raise self._error(exc, bucket) from None

    def _error(self, exc: BaseException, bucket: str) -> Exception:
        """What obstore raised, in words that hold no secret."""
        text = str(exc).partition("\n\nDebug source")[0]
        if _NO_BUCKET.search(text):
            return self.no_bucket(bucket)
        code = next((a or b for a, b in _CODE.findall(text)), "")
        where = f"{self.container} {bucket!r}"
        is_refusal = type(exc).__name__ in ("PermissionDeniedError", "UnauthenticatedError")
        is_refusal |= isinstance(exc, ListingRefusedError) and exc.status in (401, 403)
        if code in self.refused or is_refusal:
            reason = self.refused.get(code, code)
            return AccessError(f"access to {where} was refused" + (f": {reason}" if reason else ""))
        if "invalid path" in text:
            return OddKeyError(f"{where} holds an object whose key cannot be read: {_without_secrets(text)}")
        if problem := self.problem(text):
            return AccessError(f"{where} cannot be reached: {problem}")
        if "timed out" in text or "TimedOut" in str(exc):
            return TimeoutError(f"{where} gives no complete answer in time")
        return OSError(f"{type(exc).__name__}: {_without_secrets(text)}")

    def no_bucket(self, bucket: str) -> FileNotFoundError:
        """The error that says that the bucket itself is not there."""
        return FileNotFoundError(f"{self.container} {bucket!r}: bucket does not exist")

    @abstractmethod
    def listing_request(self, bucket: str, query: ListingQuery) -> Request:
        """As ``verbatim.Lister``."""

    @abstractmethod
    def read_listing(self, body: bytes) -> Page:
        """As ``verbatim.Lister``."""

    def verbatim(
        self, bucket: str, prefix: str, *, is_level: bool = False, most: int | None = None
    ) -> Iterator[Page]:
        """A listing of keys that begin with ``prefix`` as they are, of at most ``most`` objects.

        Raises ``ListingNotPossibleError``, and else as ``named``.
        """
        try:
            yield from verbatim_pages(self, bucket, ListingQuery(prefix, is_level, most))
        except ListingRefusedError as exc:
            raise self._error(exc, bucket) from None

    def problem(self, text: str) -> str | None:
        """What is wrong with the settings, if that is what an error's text says."""
        return None


def is_no_bucket(exc: BaseException) -> bool:
    """Whether an error says that the bucket itself is not there."""
    return "bucket does not exist" in str(exc)


def answers(host: str) -> bool:
    """Whether the metadata service of a cloud's machine answers at ``host``, hence may give credentials."""
    try:
        socket.create_connection((host, 80), timeout=METADATA_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def checked_key(key: str) -> str:
    """``key`` for obstore, which would spell some otherwise. Raises ``OddKeyNotReadError`` for those."""
    if key and not is_plain(key):
        raise OddKeyNotReadError(
            f"no object whose key has an empty part, '.', '..' or a control character is read: {key!r}"
        )
    return key


def is_plain(key: str) -> bool:
    """Whether obstore asks for this very key."""
    return not any(part in ("", ".", "..") for part in key.split("/")) and not _CONTROL.search(key)


def _without_secrets(text: str) -> str:
    return " ".join(_QUERY.sub("?…", text).split())[:500]
