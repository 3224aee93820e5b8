"""Pixels -> the bytes of a picture file."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image


def encode(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """The picture as a file of Pillow's format ``form``; ``options`` are those of its encoder."""
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()
