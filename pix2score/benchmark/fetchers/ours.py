"""This package's own: obstore, and aiobotocore for what obstore does not bring."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pix2score.benchmark.s3_server import BUCKET
from pix2score.images.decode import MAX_BYTES
from pix2score.images.fetch import NUM_CONCURRENT, TIMEOUT_S
from pix2score.storage.objects import gather_objects
from pix2score.storage.places import filesystem


def reader(_endpoint: str) -> Callable[[Sequence[str]], int]:
    """Reads objects; the endpoint is that of the environment."""
    fs = filesystem(f"s3://{BUCKET}")

    def read(keys: Sequence[str]) -> int:
        wanted = [(BUCKET, key) for key in keys]
        found = gather_objects(
            fs, wanted, max_bytes=MAX_BYTES, num_concurrent=NUM_CONCURRENT, timeout_s=TIMEOUT_S
        )
        return sum(len(one[1]) for one in found if isinstance(one, tuple))

    return read
