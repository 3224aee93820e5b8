"""Places named by the user: a local path or ``s3://``, ``gs://`` or ``az://bucket/key``; the filesystem of
each, and its errors as ours.

Credentials and endpoint come from each store's standard chain (of AWS, ``AWS_ENDPOINT_URL`` for other stores;
``google`` and ``azure`` name theirs) and are never stored or logged.
"""

from __future__ import annotations

import contextlib
import functools
import os
import random
import re
from collections.abc import Iterator
from typing import Any

import fsspec
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from pix2score.errors import AccessError, ConfigError, DataError, Pix2ScoreError, StorageError
from pix2score.storage import azure, google
from pix2score.storage.remote_stores import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, is_plain
from pix2score.storage.s3_errors import access_problem, is_without_reason

MAX_REQUESTS = 6
MAX_CONNECTIONS = 64  # botocore's own 10 are fewer than the requests that are sent at a time
MAX_BACKOFF_S = 20.0


STORES = {"s3": "bucket", "gs": "bucket", "az": "container"}
"""Scheme of a store, two letters each -> what it calls the first part of a place."""
_SPELLINGS = {"gcs": "gs", "abfs": "az", "abfss": "az"}
_CREDENTIALS = re.compile(r"(?<=://)([^/]*@|[^/@]*:[^?]*@)|\?.*", re.DOTALL)
"""Of a URL: who and password, which may hold a slash, and a signed query."""
PLACES = "s3://, gs:// or az://bucket/prefix"


def is_remote(place: str) -> bool:
    """Whether a place, as ``normalise`` gives it, is in an object store."""
    return place.partition("://")[0] in STORES and "://" in place


def is_s3(place: str) -> bool:
    """Whether a place is on S3."""
    return place.startswith("s3://")


def split(place: str) -> tuple[str, str]:
    """Bucket and key of ``s3://bucket/key`` or another store's, verbatim."""
    bucket, _, key = place[5:].partition("/")
    return bucket, key


def canonical(place: str) -> str:
    """A place of a store in its one spelling; anything else as it is.

    Raises ``AccessError`` for a storage account that the environment does not name.
    """
    scheme = place.partition("://")[0]
    if scheme not in _SPELLINGS or "://" not in place:
        return place
    return azure.canonical(place) if _SPELLINGS[scheme] == "az" else f"gs{place[len(scheme) :]}"


_OTHERS = {"gs": google.GoogleFileSystem, "az": azure.AzureFileSystem}


@functools.lru_cache(maxsize=8)
def _filesystem(protocol: str, _pid: int) -> Any:  # connections must not cross a fork
    if protocol == "file":
        return fsspec.filesystem("file", auto_mkdir=True)
    if protocol in _OTHERS:
        return _OTHERS[protocol]()
    return fsspec.filesystem(
        "s3",
        use_listings_cache=False,
        config_kwargs={
            "max_pool_connections": MAX_CONNECTIONS,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "read_timeout": READ_TIMEOUT_S,
            "retries": {"mode": "standard", "max_attempts": MAX_REQUESTS},
        },
    )


def filesystem(place: str) -> Any:
    """The fsspec filesystem of a place, one per process."""
    return _filesystem(place.partition("://")[0] if is_remote(place) else "file", os.getpid())


def normalise(place: str) -> str:
    """An absolute local path, or ``s3://bucket/prefix`` (``gs://``, ``az://``) without a trailing slash.

    Raises:
        ConfigError: empty, another scheme, or a place in a store without a bucket, or with parts that it
            cannot have.
    """
    place = canonical(place)
    if is_remote(place):
        scheme, (bucket, key) = place[:2], split(place)
        if not bucket:
            raise ConfigError(f"place {place!r} has no bucket; expected {scheme}://bucket/prefix")
        if ":" in bucket and not bucket.startswith("arn:") and "@" in place:
            raise ConfigError(
                f"place {scheme}://…@{place.rpartition('@')[2]}: credentials are no part of a place; they "
                "come from the store's standard chain"
            )
        if scheme in _OTHERS and key.rstrip("/") and not is_plain(key.rstrip("/")):
            raise ConfigError(
                f"place {place!r}: a part that is empty, '.' or '..' cannot be read on {scheme}://"
            )
        return f"{scheme}://{bucket}/{key.rstrip('/')}".rstrip("/")
    if "://" in place or not place:
        shown = _CREDENTIALS.sub("", place)
        raise ConfigError(f"place {shown!r} is neither a local path nor {PLACES}")
    return os.path.abspath(os.path.expanduser(place))


def _endpoint(place: str) -> str:
    """`` at URL`` where another store than AWS is spoken to."""
    url = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    return f" at {url}" if url and is_s3(place) else ""


@contextlib.contextmanager
def named_errors(place: str) -> Iterator[None]:
    """Storage errors as ours: naming the bucket or path, never a key or secret."""
    where = f"{STORES[place[:2]]} {split(place)[0]!r}" if is_remote(place) else f"path {place!r}"
    try:
        yield
    except NoCredentialsError:
        raise AccessError(f"no AWS credentials for {where}; set them by the standard AWS chain") from None
    except (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError) as exc:
        if means_no_bucket(exc):
            raise DataError(f"{where} does not exist") from None
        raise
    except AccessError:
        raise
    except (ClientError, BotoCoreError, OSError, ValueError) as exc:  # a TimeoutError is an OSError
        error = _s3_error(exc, place, where) if is_s3(place) else _plain_error(exc, where)
        if error is None:
            raise
        raise error from exc


def _s3_error(exc: BaseException, place: str, where: str) -> Pix2ScoreError | None:
    """None for an error that is not the storage's."""
    problem = (_reason_of_refusal(place) if is_without_reason(exc) else None) or access_problem(exc)
    if isinstance(exc, PermissionError):
        return AccessError(
            f"access to {where}{_endpoint(place)} was refused: {problem}"
            if problem
            else f"access to {where} was refused"
        )
    if problem:
        return AccessError(f"{where}{_endpoint(place)} cannot be reached: {problem}")
    if isinstance(exc, ValueError):
        return None
    return StorageError(
        f"{where}{_endpoint(place)} still fails after {MAX_REQUESTS} attempts: {type(exc).__name__}: {exc}"
    )


def _reason_of_refusal(place: str) -> str | None:
    """Why the store refuses, asked by a GET of next to nothing."""
    try:
        filesystem(place).call_s3("list_objects_v2", Bucket=split(place)[0], MaxKeys=1)
    except (ClientError, BotoCoreError, OSError, ValueError) as exc:
        return access_problem(exc)
    return None


def _plain_error(exc: BaseException, where: str) -> Pix2ScoreError | None:
    """Of a disk, and of a store whose filesystem has tried again and found the words."""
    if isinstance(exc, PermissionError):
        return AccessError(f"access to {where} was refused")
    return None if isinstance(exc, ValueError) else StorageError(f"{where}: {type(exc).__name__}: {exc}")


def means_no_bucket(exc: OSError) -> bool:
    """Whether an error says that the bucket itself is not there."""
    return "NoSuchBucket" in repr(exc.__cause__) or "bucket does not exist" in str(exc)


def backoff_s(attempt: int) -> float:
    """Seconds before another try, with full jitter: a crowd must not return at once."""
    return random.uniform(0, min(MAX_BACKOFF_S, 0.2 * 2**attempt))
