"""Requests that are refused: each a status and one line, as JSON; and the status of a picture's failure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse, Response

from pix2score.errors import ImageFailure
from pix2score.service.config import RETRY_AFTER_S

STATUS = {"TOO_LARGE": 413, "UNSUPPORTED": 415, "NONFINITE": 500}
"""Of a request whose pictures all failed, by the code of the first; else 422."""


class Refused(Exception):
    """A request that gets no answer: ``status``, and what its JSON says. ``detail`` is one line."""

    def __init__(self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.code, self.headers = status, code, dict(headers or {})
        self.detail = " ".join(detail.encode(errors="backslashreplace").decode().split())[:300]

    def response(self) -> Response:
        """``{"error": {"code", "detail"}}``."""
        content = {"error": {"code": self.code, "detail": self.detail}}
        return JSONResponse(content, self.status, self.headers)


def too_large(detail: str) -> Refused:
    """A body over the limit; the connection ends, as the rest of the body is not read."""
    return Refused(413, "TOO_LARGE", detail, {"Connection": "close"})


def busy(detail: str) -> Refused:
    """The queue is full."""
    return Refused(429, "BUSY", detail, {"Retry-After": str(RETRY_AFTER_S)})


def bad_request(detail: str) -> Refused:
    """Not what the route takes."""
    return Refused(400, "BAD_REQUEST", detail)


def failed(name: str, failure: ImageFailure) -> dict[str, Any]:
    """What stands in place of a picture's answer."""
    return {"image": name, "error": {"code": failure.code, "detail": failure.detail}}


def status_of(failure: ImageFailure) -> int:
    """Of a request about this picture alone."""
    return STATUS.get(failure.code, 422)


def json_response(content: Any, status: int = 200) -> Response:
    """Plain values as JSON, by the standard encoder: they are known to be plain."""
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(data.encode(errors="surrogateescape"), status, media_type="application/json")
