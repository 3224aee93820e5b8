"""Encoding: the file holds the picture, in the format and quality asked for."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from pix2score.images.encode import encode

PICTURE = Image.linear_gradient("L").convert("RGB")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_the_file_holds_the_picture_in_the_format_asked_for(form: str) -> None:
    again = Image.open(io.BytesIO(encode(PICTURE, form)))
    assert (again.format, again.size) == (form, PICTURE.size)
    assert abs(again.convert("L").getpixel((9, 200)) - PICTURE.getpixel((9, 200))[0]) <= 3


def test_options_are_those_of_the_encoder() -> None:
    assert len(encode(PICTURE, quality=95, subsampling="4:4:4")) > len(encode(PICTURE, quality=30))
    assert encode(PICTURE) == encode(PICTURE, "JPEG", quality=75)
