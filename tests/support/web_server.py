"""A web server with a certificate of its own, well and badly behaved by path. In the process of the test.

``/ok/N``: N bytes. Others are described where they are served.
"""

from __future__ import annotations

import contextlib
import datetime
import gzip
import http.server
import ipaddress
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

NAMES = ("localhost", "pictures.test", "other.test")


def make_certificate(folder: Path, from_day: int = -1, to_day: int = 1) -> tuple[Path, Path]:
    """Certificate and key, for ``NAMES`` and 127.0.0.1, signed by itself; valid for those days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pix2score tests")])
    now = datetime.datetime.now(datetime.UTC)
    names = [*map(x509.DNSName, NAMES), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=from_day))
        .not_valid_after(now + datetime.timedelta(days=to_day))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "certificate.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    kind = serialization.PrivateFormat.PKCS8
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, kind, plain))
    return pem, secret


_COUNTING = threading.Lock()


@dataclass
class WebServer:
    """``root``: an address that a catalog may name; ``asked``: requests by path."""

    port: int
    certificate: Path
    asked: Counter[str] = field(default_factory=Counter)
    at_once: int = 0
    """Requests of ``/slow`` under way: those that earlier tests left hanging are not among them."""
    most_at_once: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    """Of the last request."""
    files: dict[str, bytes] = field(default_factory=dict)
    """Below ``/file/``."""

    def at(self, path: str, host: str = "localhost") -> str:
        """The uri of a path."""
        return f"https://{host}:{self.port}{path}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    about: WebServer

    def do_GET(self) -> None:
        about, path = self.about, self.path
        about.asked[path] += 1
        about.headers = {name.lower(): value for name, value in self.headers.items()}
        with contextlib.suppress(OSError):
            self._serve(path.strip("/").partition("?")[0].split("/"))

    def _serve(self, parts: list[str]) -> None:
        kind, rest = parts[0], parts[1:]
        if kind == "ok":
            self._answer(200, b"x" * int(rest[0]))
        elif kind == "slow":  # after some time, and counted till its answer: behind it the next may come
            with _COUNTING:
                self.about.at_once += 1
                self.about.most_at_once = max(self.about.most_at_once, self.about.at_once)
            time.sleep(0.05)
            with _COUNTING:
                self.about.at_once -= 1
            self._answer(200, b"slow")
        elif kind == "file":
            data = self.about.files.get("/".join(rest))
            self._answer(404 if data is None else 200, data or b"")
        elif kind == "bye":  # and hangs up
            self.close_connection = True
            self._answer(200, b"bye", {"Connection": "close"})
        elif kind == "status":
            self._answer(int(rest[0]), b"" if rest[0] in ("204", "304") else b"no")
        elif kind == "redirect":  # to this machine's own other path
            target = {"inside": "/ok/9", "metadata": "http://169.254.169.254/latest/meta-data"}[rest[0]]
            self._answer(302, b"", {"Location": target})
        elif kind == "later":  # well from the third time on
            if self.about.asked[self.path] < 3:
                self._answer(int((rest[1:] or ["503"])[0]), b"", {"Retry-After": rest[0]})
            else:
                self._answer(200, b"at last")
        elif kind in ("gzip", "encoded", "policy"):
            self._dressed(kind, rest)
        else:
            self._misbehave(kind, rest)

    def _dressed(self, kind: str, rest: list[str]) -> None:
        if kind == "gzip":  # 100 MB in 100 kB
            self._answer(200, gzip.compress(bytes(10**8)), {"Content-Encoding": "gzip"})
        elif kind == "encoded":  # so it says, of bytes as they are
            self._answer(200, b"plain", {"Content-Encoding": unquote(rest[0]) if rest else ""})
        elif kind == "policy":  # a head with a long line
            self._answer(200, b"plain", {"Content-Security-Policy": "a" * int(rest[0])})

    def _misbehave(self, kind: str, rest: list[str]) -> None:
        self.close_connection = True
        if kind == "short":  # says more than it sends
            self._head({"Content-Length": "1000"})
            self.wfile.write(b"x" * 10)
        elif kind == "huge":  # says what it is, and would send it
            self._head({"Content-Length": rest[0]})
            self._pour()
        elif kind == "endless":  # never says
            self._head({"Connection": "close"})
            self._pour()
        elif kind == "drip":  # a byte at a time, for ever
            self._head({"Content-Length": "1000000"})
            while True:
                self.wfile.write(b"x")
                time.sleep(0.05)
        elif kind == "garbage":  # no HTTP
            self.wfile.write(b"\0\1nothing of the kind\r\n\r\n")
        elif kind == "silent":
            time.sleep(3)

    def _pour(self) -> None:
        while True:
            self.wfile.write(bytes(2**16))

    def _head(self, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path, from_day: int = -1, to_day: int = 1) -> Iterator[WebServer]:
    """A server on a free port of 127.0.0.1, with a certificate that is valid for those days from now."""
    certificate, key = make_certificate(folder, from_day, to_day)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = type("Handler", (_Handler,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    about = WebServer(server.server_port, certificate)
    handler.about = about  # type: ignore[attr-defined]
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield about
    finally:
        server.shutdown()
        server.server_close()
