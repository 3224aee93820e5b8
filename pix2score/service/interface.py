"""``/docs``: the routes as a plain page, from ``/openapi.json``.

FastAPI's own loads its scripts from another host, which a service within a company may not reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from starlette.responses import Response

from pix2score.service.pages import page_response

_PICTURE = {"type": "string", "format": "byte", "description": "base64; a data: URL is taken too"}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "string", "format": "binary"}},
                    "description": "Files, of any field name",
                }
            },
            "application/json": {
                "schema": {
                    "oneOf": [
                        {"type": "object", "required": ["image"], "properties": {"image": _PICTURE}},
                        {
                            "type": "object",
                            "required": ["images"],
                            "properties": {"images": {"type": "array", "items": _PICTURE}},
                        },
                    ]
                }
            },
        },
    }
}
"""Of routes that take pictures, for OpenAPI."""
EXAMPLES = {
    "/predict": "curl -F image=@a.png -F image=@b.jpg '{host}/predict?where=HEAD'\n"
    'echo "{{\\"image\\": \\"$(base64 -w0 a.png)\\"}}" | curl -d @- {host}/predict',
    "/similar": "curl '{host}/similar?id=ID&k=12'\ncurl -F image=@a.png '{host}/similar?k=12'",
    "/picture": "curl -o picture.jpg '{host}/picture?id=ID&page=0&size=256'",
}
HOST = "http://127.0.0.1:8000"


def interface_page(openapi: Mapping[str, Any]) -> Response:
    """The page."""
    body = "".join(_route(path, methods) for path, methods in openapi["paths"].items())
    title = escape(f"{openapi['info']['title']} {openapi['info']['version']}")
    return page_response(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}: interface</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><link rel="stylesheet" href="page.css">'
        '<link rel="icon" href="data:,"></head>'
        f"<body><main><h1>{title}: interface</h1>"
        '<p>For programs: <a href="openapi.json">openapi.json</a>.</p>'
        f"{body}</main></body></html>",
        "text/html",
    )


def _route(path: str, methods: Mapping[str, Any]) -> str:
    example = EXAMPLES.get(path)
    shown = f"<pre>{escape(example.format(host=HOST))}</pre>" if example else ""
    return "".join(_method(path, name, about) for name, about in methods.items()) + shown


def _method(path: str, method: str, about: Mapping[str, Any]) -> str:
    rows = "".join(f"<li>{line}</li>" for line in _parameters(about))
    text = escape(about.get("description", ""))
    return f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{text}</p><ul>{rows}</ul>"


def _parameters(about: Mapping[str, Any]) -> Iterator[str]:
    for one in about.get("parameters", ()):
        schema = one["schema"]
        default = f", default {schema['default']}" if schema.get("default") not in (None, []) else ""
        need = ", required" if one.get("required") else ""
        text = escape(one.get("description") or schema.get("description") or "")
        yield f"<code>{escape(one['name'])}</code>{need}{escape(default)}. {text}"
    for kind in about.get("requestBody", {}).get("content", ()):
        yield f"body: <code>{escape(kind)}</code>"
