"""obstore: the Rust crate object_store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from pix2score.benchmark.s3_server import BUCKET
from pix2score.images.fetch import NUM_CONCURRENT


def reader(endpoint: str) -> Callable[[Sequence[str]], int]:
    """Reads objects, in an event loop for each call."""
    from obstore.store import S3Store

    store = S3Store(
        BUCKET, endpoint=endpoint, virtual_hosted_style_request=False, client_options={"allow_http": True}
    )

    async def everything(keys: Sequence[str]) -> list[int]:
        gate = asyncio.Semaphore(NUM_CONCURRENT)

        async def one(key: str) -> int:
            async with gate:
                found = await store.get_async(key)
                return len(bytes(await found.bytes_async()))

        return await asyncio.gather(*map(one, keys))

    return lambda keys: sum(asyncio.run(everything(keys)))
