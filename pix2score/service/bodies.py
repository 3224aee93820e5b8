"""From a request to its pictures: files of a form, or base64 in JSON as the reference system took it."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from pix2score.service.refusals import Refused, bad_request

MAX_NAME_CHARS = 200
_DATA_URL = re.compile(r"data:[\w.+/-]*(;[\w.=+-]+)*;base64,", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Asked:
    """Pictures with their names, in order; ``is_single``: all that is wanted is the answer of the one."""

    pictures: list[tuple[str, bytes]]
    is_single: bool


async def pictures_of(request: Request, max_images: int) -> Asked:
    """The pictures of a request whose body is bounded already. Raises ``Refused``."""
    if request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await _files(request, max_images)
    body = await request.body()
    return await asyncio.to_thread(_from_json, body, max_images)  # base64 of a large one takes a while


class _InMemory(MultiPartParser):
    """Files stay in memory: a body is bounded, and is not written to a disk of this machine."""

    spool_max_size = 2**40


async def _files(request: Request, max_images: int) -> Asked:
    parser = _InMemory(request.headers, request.stream(), max_files=max_images, max_fields=max_images)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, UnicodeError) as exc:  # KeyError: without a boundary
        if "Too many files" in str(exc):
            raise _too_many(max_images) from None
        raise bad_request(f"not a form of files: {exc}") from None
    files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
    if not files:
        raise bad_request("no picture in the form: expected parts with a file name")
    pictures = [(_name(file), await file.read()) for file in files]
    await form.close()
    return Asked(pictures, False)


def _name(file: UploadFile) -> str:
    return (file.filename or "")[:MAX_NAME_CHARS]


def _from_json(body: bytes, max_images: int) -> Asked:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise bad_request(
            'the body is neither a form of files nor JSON: expected {"image": "<base64>"} or '
            '{"images": ["<base64>", ...]}'
        ) from None
    texts, is_single = _texts(content)
    if len(texts) > max_images:
        raise _too_many(max_images)
    return Asked(list(_decoded(texts, is_single)), is_single)


def _texts(content: Any) -> tuple[list[Any], bool]:
    if isinstance(content, dict) and "image" in content:
        return [content["image"]], True
    if isinstance(content, dict) and isinstance(content.get("images"), list) and content["images"]:
        return content["images"], False
    raise bad_request(
        'no picture in the JSON: expected {"image": "<base64>"} or {"images": ["<base64>", ...]}'
    )


def _decoded(texts: list[Any], is_single: bool) -> Iterator[tuple[str, bytes]]:
    for number, text in enumerate(texts):
        name = "image" if is_single else f"images[{number}]"
        try:
            yield name, _bytes(text)
        except (ValueError, AttributeError, TypeError):  # binascii.Error is a ValueError
            raise bad_request(f"{name} is not base64") from None


def _bytes(text: str) -> bytes:
    """Lines, as ``base64`` breaks them, and the start of a data URL are left out."""
    if found := _DATA_URL.match(text[:200]):
        text = text[found.end() :]
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        return base64.b64decode("".join(text.split()), validate=True)


def _too_many(max_images: int) -> Refused:
    return Refused(413, "TOO_MANY", f"more than {max_images} pictures in one request")
