"""The page of the service: the files in ``service/page/``, read once. No path comes from a request."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response

FOLDER = Path(__file__).parent / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing from any other host, and no script but its own files."""


def page_files() -> dict[str, Response]:
    """The answer for each file, by its name."""
    found = sorted(path for path in FOLDER.glob("*") if path.suffix in TYPES)
    return {path.name: page_response(path.read_bytes(), TYPES[path.suffix]) for path in found}


def page_response(content: bytes | str, media_type: str) -> Response:
    """With the headers of a page."""
    headers = {
        "Cache-Control": "no-cache",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": POLICY,
    }
    return Response(content, media_type=media_type, headers=headers)
