"""boto3's client, one for all threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pix2score.benchmark.s3_server import BUCKET
from pix2score.images.fetch import NUM_CONCURRENT


def reader(endpoint: str) -> Callable[[Sequence[str]], int]:
    """Reads objects."""
    import boto3
    from botocore.config import Config

    config = Config(max_pool_connections=NUM_CONCURRENT)
    client = boto3.client("s3", endpoint_url=endpoint, config=config)
    threads = ThreadPoolExecutor(NUM_CONCURRENT)

    def one(key: str) -> int:
        return len(client.get_object(Bucket=BUCKET, Key=key)["Body"].read())

    return lambda keys: sum(threads.map(one, keys))
