"""Objects of S3, put so that they are there whole or not at all, and removed by their literal names."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from pix2score.errors import AccessError, DataError
from pix2score.storage.places import MAX_REQUESTS, backoff_s, split

_REFUSED = ("PreconditionFailed", "pre-conditions", "NotModified", "(304)")
"""Of a PUT whose object exists already; some stores answer 304 instead of 412."""

DELETE_KEYS = 1000
"""Of one DeleteObjects request."""


def put_s3(fs: Any, place: str, data: bytes, *, replace: bool) -> None:
    """``place`` holds ``data``.

    Raises ``FileExistsError`` if it holds something else and ``replace`` is off; ``DataError`` if the store
    cannot tell.
    """
    bucket, key = split(place)
    # If-None-Match makes the store itself refuse the second creator; honoured by AWS since 2024 and by moto.
    condition = {} if replace else {"IfNoneMatch": "*"}
    try:
        _put_unless_undecided(fs, {"Bucket": bucket, "Key": key, "Body": data, **condition})
    except OSError as exc:
        text = f"{exc!r} {exc.__cause__!r}"
        if condition and ("NotImplemented" in text or "not implemented" in text):
            raise DataError(
                f"the store of bucket {bucket!r} cannot create an object only if it is absent (PUT with "
                "If-None-Match): two runs could "
                f"publish the same snapshot; give a store that can"
            ) from exc
        if not any(sign in text for sign in _REFUSED):
            raise
        # After a lost answer a retry is refused by what its own first try made.
        if fs.cat_file(place) != data:
            raise FileExistsError(place) from None


def _put_unless_undecided(fs: Any, request: dict[str, Any]) -> None:
    """One PUT; sent again where the store says 409: two creators met, it has not decided between them, and
    neither object may exist."""
    for attempt in range(MAX_REQUESTS):
        try:
            fs.call_s3("put_object", **request)
        except OSError as exc:
            if (
                "ConditionalRequestConflict" not in f"{exc!r} {exc.__cause__!r}"
                or attempt == MAX_REQUESTS - 1
            ):
                raise
            time.sleep(backoff_s(attempt))
        else:
            return


def delete_s3(fs: Any, places: Sequence[str]) -> None:
    """Remove the objects in the given order: one request after the other.

    A store answers 200 and lists what it refused; fsspec drops that list, takes names for patterns and sends
    requests side by side. Raises ``AccessError`` or ``OSError`` at the first request with a refusal, telling
    how many are left.
    """
    for start in range(0, len(places), DELETE_KEYS):
        batch = [split(place) for place in places[start : start + DELETE_KEYS]]
        for bucket in dict.fromkeys(bucket for bucket, _ in batch):
            keys = [{"Key": key} for owner, key in batch if owner == bucket]
            answer = fs.call_s3("delete_objects", Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
            refused = [error for error in answer.get("Errors", ()) if error.get("Code") != "NoSuchKey"]
            if refused:
                raise _refusal(refused, len(places))


def _refusal(refused: Sequence[dict[str, Any]], num_places: int) -> OSError:
    first = refused[0]
    what = (
        f"{len(refused)} or more of {num_places} objects were not removed: {first.get('Code')} for "
        f"{first.get('Key')!r}"
    )
    return (
        AccessError(what)
        if first.get("Code") in ("AccessDenied", "AllAccessDisabled", "Forbidden")
        else OSError(what)
    )
