"""A server that answers GET as S3 does, so that what a client costs can be measured: objects by their size.

``python -m pix2score.benchmark.s3_server`` prints its port and serves on this machine until it is ended. Key
``20000/7`` has 20,000 bytes; below prefix ``listed/5000`` a listing shows 5,000 objects. It checks no
signature and stores nothing: for ``jobs.benchmark`` only.
"""

from __future__ import annotations

import bisect
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

BUCKET = "benchmark"
LISTED = "listed"
PAGE = 1000
_CONTENT = bytes(range(256)) * 2**14  # 4 MiB


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:  # noqa: N802
        path, _, query = self.path.partition("?")
        if path.strip("/") == BUCKET:
            self._list(dict(parse_qsl(query)))
        else:
            self._answer(with_content=True)

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer(with_content=False)

    def _answer(self, *, with_content: bool) -> None:
        size = size_of(self.path.partition("?")[0].removeprefix(f"/{BUCKET}/"))
        start, stop = 0, size
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(size, int(last or size - 1) + 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("Content-Type", "image/jpeg")
        self.send_header("ETag", f'"{size:032x}"')
        self.send_header("Last-Modified", formatdate(1_700_000_000, usegmt=True))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("x-amz-request-id", "0123456789ABCDEF")
        self.end_headers()
        if with_content:
            self.wfile.write(memoryview(_CONTENT)[start:stop])

    def _list(self, asked: dict[str, str]) -> None:
        prefix = asked.get("prefix", "").rstrip("/")
        after = asked.get("continuation-token") or asked.get("start-after", "")
        body = page_of(prefix, after).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "application/xml")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def listed_key(prefix: str, number: int) -> str:
    """Key of the object ``number`` below ``listed/…``: a thousand in each folder."""
    return f"{prefix}/{number // 1000:06}/{number:09}_p0.jpg"


def page_of(prefix: str, after: str) -> str:
    """The answer to ListObjectsV2 for prefix ``listed/NUMBER``: objects with keys beyond ``after``."""
    total = int(prefix.removeprefix(f"{LISTED}/"))
    first = bisect.bisect_right(range(total), after, key=lambda number: listed_key(prefix, number))
    numbers = range(first, min(total, first + PAGE))
    rows = "".join(
        f"<Contents><Key>{listed_key(prefix, number)}</Key>"
        "<LastModified>2026-01-02T03:04:05.000Z</LastModified>"
        f"<ETag>&quot;{number:032x}&quot;</ETag><Size>{200_000 + number % 1000}</Size>"
        "<StorageClass>STANDARD</StorageClass></Contents>"
        for number in numbers
    )
    is_more = numbers.stop < total
    token = listed_key(prefix, numbers[-1]) if is_more else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><KeyCount>{len(numbers)}</KeyCount>"
        f"<MaxKeys>{PAGE}</MaxKeys><EncodingType>url</EncodingType>"
        f"<IsTruncated>{str(is_more).lower()}</IsTruncated>"
        f"{f'<NextContinuationToken>{token}</NextContinuationToken>' if is_more else ''}{rows}"
        "</ListBucketResult>"
    )


def size_of(key: str) -> int:
    """Bytes of an object."""
    return min(int(key.partition("/")[0]), len(_CONTENT))


def client_settings(endpoint: str) -> dict[str, str]:
    """Environment of a process whose S3 is this server."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@contextlib.contextmanager
def running() -> Iterator[str]:
    """A server in a process of its own; yields its endpoint."""
    command = [sys.executable, "-m", __name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


def main() -> None:
    """Serve until ended."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
