"""The service on a real Ray Serve, pictures that are sent to it, and files made to hurt it."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
from PIL import Image

from pix2score.service.app import application
from pix2score.service.config import AppConfig
from tests.conftest import free_port
from tests.support.pictures import encode, noise, png, smooth

TIMEOUT_S = 60.0


@contextlib.contextmanager
def ray_serve() -> Iterator[str]:
    """Ray Serve on the Ray that is connected, on a free port; yields where it is."""
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


def deploy(config: AppConfig, name: str = "pix2score", prefix: str = "/", **options: Any) -> None:
    """Return when the application answers below ``prefix``."""
    from ray import serve

    serve.run(application(config, options), name=name, route_prefix=prefix)


@contextlib.contextmanager
def deployed(config: AppConfig, serving: str, name: str) -> Iterator[str]:
    """An application of its own on the Ray Serve at ``serving``, until the block ends; yields where it is."""
    from ray import serve

    deploy(config, name, f"/{name}")
    try:
        yield f"{serving}/{name}"
    finally:
        serve.delete(name)


def client(url: str) -> httpx.Client:
    """Of requests to ``url`` without a proxy of the environment."""
    return httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False)


def picture(seed: int = 0, side: int = 40) -> bytes:
    """A PNG like no other of another seed."""
    return encode(np.roll(noise(side, side, seed=seed), seed, axis=1))


def giant() -> bytes:
    """A whole PNG just within the limit, a few kB long: seconds of work."""
    out = io.BytesIO()
    Image.new("RGB", (9_990, 10_000), (200, 30, 90)).save(out, "PNG", compress_level=9)
    return out.getvalue()


def hostile() -> dict[str, tuple[bytes, str, int]]:
    """Name -> file, its error code, the status of a request of it alone."""
    jpeg = encode(smooth(300, 400), "JPEG", quality=95)
    return {
        "bomb.png": (png(60_000, 60_000), "TOO_LARGE", 413),
        "lie.png": (png(9_000, 9_000, rows=b"\0" * 100), "TRUNCATED", 422),
        "half.jpg": (jpeg[: len(jpeg) // 2], "TRUNCATED", 422),
        "noise.png": (b"\x89PNG\r\n\x1a\n" + noise(40, 40).tobytes(), "CORRUPT", 422),
        "page.png": (b"<html><body>404</body></html>" * 20, "UNSUPPORTED", 415),
        "empty.png": (b"", "EMPTY", 422),
    }


def parts(pictures: dict[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    """As files of a form."""
    return [("image", (name, data)) for name, data in pictures.items()]
