"""s3torchconnector: the AWS Common Runtime by Mountpoint's Rust client, in threads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pix2score.benchmark.s3_server import BUCKET
from pix2score.images.fetch import NUM_CONCURRENT


def reader(endpoint: str) -> Callable[[Sequence[str]], int]:
    """Reads objects."""
    from s3torchconnectorclient._mountpoint_s3_client import MountpointS3Client

    client = MountpointS3Client("us-east-1", "pix2score", endpoint=endpoint, force_path_style=True)
    threads = ThreadPoolExecutor(NUM_CONCURRENT)

    def one(key: str) -> int:
        return sum(map(len, client.get_object(BUCKET, key)))

    return lambda keys: sum(threads.map(one, keys))
