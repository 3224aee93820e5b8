"""s3fs: aiobotocore in an event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pix2score.benchmark.s3_server import BUCKET
from pix2score.images.fetch import NUM_CONCURRENT


def reader(_endpoint: str) -> Callable[[Sequence[str]], int]:
    """Reads objects; the endpoint is that of the environment."""
    import s3fs

    fs = s3fs.S3FileSystem(config_kwargs={"max_pool_connections": NUM_CONCURRENT}, skip_instance_cache=True)

    def read(keys: Sequence[str]) -> int:
        found = fs.cat([f"{BUCKET}/{key}" for key in keys], batch_size=NUM_CONCURRENT)
        return sum(map(len, found.values()))

    return read
