"""The service's answers over the standard library's HTTP server: what the page needs, by the same code.

Only the transport is made for tests: one process, no queue, no limits.
"""

from __future__ import annotations

import base64
import email.parser
import email.policy
import io
import json
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

import pix2score
from pix2score.errors import ImageFailure
from pix2score.evaluate.saliency import overlay, saliency
from pix2score.neighbours.similar import Neighbours
from pix2score.serve.model import Answer, Model, read_pixels
from pix2score.serve.predict import answer_json
from tests.support.builders import Key

PAGE = Path(pix2score.__file__).parent / "service/page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
STATUS = {"TOO_LARGE": 413, "UNSUPPORTED": 415, "NONFINITE": 500}
Reply = tuple[int, str, bytes]


class PageServer:
    """A model, the neighbours of its answers and the pictures of their keys, on a port of this machine."""

    def __init__(
        self, model: Model, neighbours: Neighbours, pictures: Mapping[Key, str], port: int = 0
    ) -> None:
        self.model, self.neighbours, self.pictures = model, neighbours, pictures
        self._turn = threading.Lock()
        self._server = ThreadingHTTPServer(
            ("127.0.0.1", port), type("Handler", (_Handler,), {"server_of": self})
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/"

    def stop(self) -> None:
        """Close the port."""
        self._server.shutdown()
        self._server.server_close()

    def reply(self, path: str, query: Mapping[str, list[str]], pictures: list[tuple[str, bytes]]) -> Reply:
        """What one address says."""
        if path == "/model":
            return _json(200, self._facts())
        if path == "/predict":
            return self._predict(query, pictures)
        if path == "/similar":
            return self._similar(query, pictures)
        if path == "/picture":
            key = int(query["id"][0]), int(query["page"][0])
            return 200, "image/jpeg", _thumbnail(self.pictures[key])
        file = PAGE / (path.removeprefix("/") or "index.html")
        if file.parent != PAGE or not file.exists():
            return _json(404, {"error": {"code": "NOT_FOUND", "detail": path}})
        return 200, f"{TYPES[file.suffix]}; charset=utf-8", file.read_bytes()

    def _facts(self) -> dict[str, Any]:
        heads = [
            {
                "name": head.name,
                "kind": head.kind,
                "title": None,
                "bins": [*head.legend().values()] or None,
                "unit": None,
            }
            for head in self.model.card.heads
        ]
        return {
            "model_version": self.model.card.version,
            "heads": heads,
            "similar": {"snapshot": self.neighbours.snapshot, "indexed": False, "pictures": True},
            "limits": {"body_bytes": 64 * 2**20, "images": 32, "image_bytes": 64 * 2**20},
            "explains": True,
        }

    def _predict(self, query: Mapping[str, list[str]], pictures: list[tuple[str, bytes]]) -> Reply:
        ((name, data),) = pictures
        (answer,) = self.model.predict([data])
        if isinstance(answer, ImageFailure):
            return self._failed(name, answer)
        plain = answer_json(name, answer, self.model.card)
        if "where" in query:
            plain["where"] = {head: self._where(head, data) for head in query["where"]}
        return _json(200, {"model_version": self.model.card.version, "answers": [plain]})

    def _failed(self, name: str, failure: ImageFailure) -> Reply:
        answer = {"image": name, "error": {"code": failure.code, "detail": failure.detail}}
        content = {"model_version": self.model.card.version, "answers": [answer]}
        return _json(STATUS.get(failure.code, 422), content)

    def _where(self, name: str, data: bytes) -> str:
        predictor, preprocess = self.model._predictor, self.model.card.preprocess
        (head,) = (head for head in self.model.card.heads if head.name == name)
        with self._turn:
            pixels = read_pixels(data, preprocess, self.model._decoder)
            assert not isinstance(pixels, ImageFailure)
            shown = overlay(pixels, saliency(predictor, head, pixels[None])[0])
        return f"data:image/jpeg;base64,{base64.b64encode(shown).decode()}"

    def _similar(self, query: Mapping[str, list[str]], pictures: list[tuple[str, bytes]]) -> Reply:
        of: dict[str, Any]
        if pictures:
            ((name, data),) = pictures
            (answer,) = self.model.predict([data])
            if not isinstance(answer, Answer):
                return self._failed(name, answer)
            of, found = {"image": name}, self.neighbours.like(answer.embedding, 12)
        else:
            of = {"illust_id": int(query["id"][0]), "page": int(query["page"][0])}
            found = self.neighbours.of([(of["illust_id"], of["page"])], 12)
        rows = [
            {**row, "picture": f"/picture?id={row['illust_id']}&page={row['page']}"}
            for row in found.select(["illust_id", "page", "similarity"]).to_pylist()
        ]
        return _json(200, {"snapshot": self.neighbours.snapshot, "of": of, "neighbours": rows})


class _Handler(BaseHTTPRequestHandler):
    server_of: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer([])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(_pictures(self.headers["Content-Type"], body))

    def _answer(self, pictures: list[tuple[str, bytes]]) -> None:
        url = urlsplit(self.path)
        status, kind, content = self.server_of.reply(url.path, parse_qs(url.query), pictures)
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-cache"}
        for name, value in {**headers, "Content-Security-Policy": POLICY}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _json(status: int, content: dict[str, Any]) -> Reply:
    return status, "application/json", json.dumps(content).encode()


def _pictures(kind: str, body: bytes) -> list[tuple[str, bytes]]:
    """Name and content of each file of a form."""
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    form = parser.parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
    return [(str(part.get_filename()), part.get_payload(decode=True)) for part in form.iter_parts()]


def _thumbnail(path: str) -> bytes:
    out = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((256, 256))
        small.save(out, "JPEG")
    return out.getvalue()
