"""A bridge before Azurite for what it lacks: of a listing with ``startFrom``, which it ignores, what is
before that is left out, as Azure does. All else passes unchanged, signatures too.

Run as ``python -m tests.support.azure_server UPSTREAM``; prints its port.
"""

from __future__ import annotations

import asyncio
import sys
from xml.etree import ElementTree

from aiohttp import web
from yarl import URL

from tests.support.google_server import HOP_BY_HOP, listening

SIGNED = {"date"}
"""Of hop-by-hop headers, what a signature is over."""


async def handle(request: web.Request) -> web.StreamResponse:
    """One request."""
    body = await request.read()
    kept = {n: v for n, v in request.headers.items() if n.lower() not in HOP_BY_HOP - SIGNED}
    async with request.app["client"].request(
        request.method,
        URL(f"{request.app['upstream']}{request.raw_path}", encoded=True),
        data=body,
        headers=kept,
        allow_redirects=False,
        skip_auto_headers=["Content-Type", "Accept", "Accept-Encoding", "User-Agent"],
    ) as found:
        content = await found.read()
        passed = {name: value for name, value in found.headers.items() if name.lower() not in HOP_BY_HOP}
        if "startFrom" in request.query and found.status == 200:
            content = _from(content, request.query["startFrom"])
        if request.method != "HEAD":
            passed.pop("Content-Length", None)
        return web.Response(status=found.status, headers=passed, body=content or None)


def _from(listing: bytes, start: str) -> bytes:
    """A listing without the blobs before ``start``."""
    root = ElementTree.fromstring(listing)
    blobs = root.find("Blobs")
    assert blobs is not None
    for blob in list(blobs):
        if blob.findtext("Name", "") < start:
            blobs.remove(blob)
    return ElementTree.tostring(root)


if __name__ == "__main__":
    asyncio.run(listening(sys.argv[1], handle))
