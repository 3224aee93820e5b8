"""Objects of S3 fetched by obstore (Rust), of 200 KB for a third of the CPU time of botocore's client.

Only the plain case is its own: a GET that succeeds, or finds no object. Whatever else comes out, and every
key that it would spell otherwise, is left to the caller's other way, whose retries, errors and settings hold
then as if this one were not there. Credentials, region, endpoint and certificates are botocore's.

obstore's calls are the blocking ones, in threads: a process that ends right after an awaited one is aborted
in its last moment now and then (1 of 40 that read one object; Python 3.11, obstore 0.12).
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from botocore.exceptions import BotoCoreError
from fsspec.config import conf

from pix2score.storage.remote_stores import CONNECT_TIMEOUT_S, READ_TIMEOUT_S

logger = logging.getLogger(__name__)
_OTHERWISE = re.compile(r"^/|//|/$|(?:^|/)\.{1,2}(?:/|$)|[\x00-\x1f\x7f]", re.DOTALL)
"""Found in keys that obstore would spell otherwise, or refuse."""
_CREDENTIALS_LAST = timedelta(minutes=5)
NUM_THREADS = 64
"""At most: as many requests as a process has under way."""
_FAILURES, _PAUSE_S = 3, 60.0
"""After so many failures in a row a bucket is left to the other way, for so long."""


class FastGets:
    """GETs with the settings of an S3 filesystem of fsspec. Safe to use from several threads."""

    def __init__(self, fs: Any) -> None:
        self._settings = _settings(fs)
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def bucket(self, name: str) -> _Bucket | None:
        """A bucket, or None where only the other way will do."""
        if self._settings is None:
            return None
        with self._lock:
            if name not in self._buckets:
                self._buckets[name] = _Bucket(name, self._settings)
            return self._buckets[name]


class _Bucket:
    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        from obstore.store import S3Store  # 0.1 s, which workers without S3 do not need

        self._store = S3Store(name, **settings)
        self._num_failures, self._paused_until = 0, 0.0

    async def get(self, key: str, max_bytes: int) -> tuple[int, bytes] | None:
        """Size and content of an object, which is not read beyond ``max_bytes``; None: ask the other way.

        Raises ``FileNotFoundError`` where there is none.
        """
        if time.monotonic() < self._paused_until or not is_verbatim(key):
            return None
        try:
            found = await asyncio.wait_for(self._get(key, max_bytes), READ_TIMEOUT_S)
        except FileNotFoundError:
            raise
        except Exception as exc:
            self._failed(exc)
            return None
        self._num_failures = 0
        return found

    async def _get(self, key: str, max_bytes: int) -> tuple[int, bytes]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_threads(os.getpid()), self._get_now, key, max_bytes)

    def _get_now(self, key: str, max_bytes: int) -> tuple[int, bytes]:
        found = self._store.get(key)
        size = int(found.meta["size"])
        return (size, b"") if size > max_bytes else (size, bytes(found.bytes()))

    def _failed(self, exc: Exception) -> None:
        self._num_failures += 1
        logger.debug("left to botocore: %s", type(exc).__name__)
        if self._num_failures >= _FAILURES:
            self._num_failures, self._paused_until = 0, time.monotonic() + _PAUSE_S


def is_verbatim(key: str) -> bool:
    """Whether obstore asks for this very key."""
    return bool(key) and not _OTHERWISE.search(key)


@functools.cache
def _threads(_pid: int) -> ThreadPoolExecutor:  # threads do not cross a fork
    return ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="fast-get")


_OF_FILESYSTEM: weakref.WeakKeyDictionary[Any, FastGets] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def fast_gets(fs: Any) -> FastGets:
    """Those of a filesystem, one for as long as it lives. May ask for credentials over the network."""
    with _LOCK:
        if fs not in _OF_FILESYSTEM:
            _OF_FILESYSTEM[fs] = FastGets(fs)
        return _OF_FILESYSTEM[fs]


def _settings(fs: Any) -> dict[str, Any] | None:
    """What ``S3Store`` is made with; None where botocore finds no credentials, or fsspec has its own."""
    import botocore.session  # 0.1 s, which a run without S3 does not need

    if conf.get("s3"):
        return None
    try:
        fs.connect()
        session = botocore.session.get_session()
        credentials, bundle = session.get_credentials(), session.get_config_variable("ca_bundle")
        certificate = {"root_certificate": Path(bundle).read_bytes()} if bundle else {}
    except (BotoCoreError, OSError, ValueError):
        return None
    if credentials is None:
        return None
    endpoint, region = fs.s3.meta.endpoint_url, fs.s3.meta.region_name

    def current() -> dict[str, Any]:
        frozen, until = credentials.get_frozen_credentials(), datetime.now(UTC) + _CREDENTIALS_LAST
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": until,
        }

    return {
        "endpoint": endpoint,
        "region": region,
        "virtual_hosted_style_request": False,
        "credential_provider": current,
        "client_options": {
            "allow_http": endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
            "timeout": timedelta(seconds=READ_TIMEOUT_S),
            **certificate,
        },
        "retry_config": {"max_retries": 0},
    }
