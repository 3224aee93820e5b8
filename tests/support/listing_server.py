"""A server that lists any keys as S3 does, a few at a time: also those that moto refuses to store."""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote_plus


@contextlib.contextmanager
def listing_server(
    keys: Sequence[str], page_rows: int, *, starts_after: bool = True
) -> Iterator[tuple[str, list[str]]]:
    """Its endpoint, and a list that grows by what each request asks to start after, which it may ignore."""
    rows, asked = sorted(keys), list[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:  # noqa: N802
            query = dict(parse_qsl(self.path.partition("?")[2], keep_blank_values=True))
            after, prefix = query.get("start-after", ""), query.get("prefix", "")
            asked.append(after)
            assert query["encoding-type"] == "url"
            first = bisect_right(rows, after) if starts_after else 0
            below = [key for key in rows[first:] if key.startswith(prefix)]
            body = _page(below[:page_rows], is_truncated=len(below) > page_rows).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _page(keys: Sequence[str], *, is_truncated: bool) -> str:
    items = "".join(
        f"<Contents><Key>{quote_plus(key)}</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified>"
        f"<ETag>&quot;{len(key):032x}&quot;</ETag><Size>{len(key)}</Size></Contents>"
        for key in keys
    )
    return (
        '<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<EncodingType>url</EncodingType><IsTruncated>{str(is_truncated).lower()}</IsTruncated>{items}"
        "</ListBucketResult>"
    )
