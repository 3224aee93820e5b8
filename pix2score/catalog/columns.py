"""Which column of a catalog means what: as the user mapped them, else by their usual names."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.types as pt

from pix2score.catalog.files import hive_values
from pix2score.catalog.opening import open_file
from pix2score.catalog.read import leaf
from pix2score.catalog.shape import (
    Shape,
    field_type,
    id_field,
    is_page,
    label_field,
    page_field,
    text_field,
    value_field,
)
from pix2score.catalog.types import bare, is_bytes, is_text
from pix2score.errors import DataError
from pix2score.heads.spec import HeadSpec
from pix2score.storage.folder import Folder

logger = logging.getLogger(__name__)
PAGE_TEXT = r"p?[0-9]+"
"""A page as text: its number, or as it is in the file names of works (``p0``)."""

USUAL_ID = "illust_id"
_DEFAULTS = {
    "page": ("page",),
    "uri": ("uri",),
    "image": ("image",),
    "group": ("artist_id",),
    "split": (),
    "fingerprint": ("fingerprint", "etag"),
    "updated_at": ("updated_at",),
}
OPTIONAL = ("page", "group", "split", "fingerprint", "updated_at")
"""Columns without which rows are rows all the same."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Our name = the catalog's column. A column that is not there and was not asked for counts as absent."""

    id: str = USUAL_ID
    """Id of the illustration, int64 or string."""
    page: str | None = None
    """Page within a work, from 0 (default: page, if there is one)."""
    uri: str | None = None
    """Where the image lies: s3://bucket/key or a path relative to the catalog (default: uri, if there is
    one)."""
    image: str | None = None
    """Embedded image bytes, instead of a uri (default: image, if there is one)."""
    group: str | None = None
    """Splits keep a group together (default: artist_id, if there is one, else the id)."""
    split: str | None = None
    """A given split (train, val, test) to honour instead of hashing."""
    fingerprint: str | None = None
    """Identifies an image's content (default: fingerprint or etag, if there is one)."""
    updated_at: str | None = None
    """Which of several rows of one key is newest (default: updated_at, if there is one)."""


def mapped_as_before(columns: Columns, before: Mapping[str, str | None], shape: Shape) -> Columns:
    """``columns``; of a catalog in which id or image would not be found, what was not asked for and has no
    usual name is named as ``before``, if that is there.

    Of others nothing: a fingerprint or a page that yesterday's night did not see would change its keys.
    """
    if _has_id(columns, shape) and _has_images(columns, shape):
        return columns
    found: dict[str, str] = {}
    for ours, usual in (("id", (USUAL_ID,)), *_DEFAULTS.items()):
        asked, name = getattr(columns, ours), before.get(ours)
        is_free = asked is None or (ours == "id" and not _has_id(columns, shape))
        if is_free and name and shape.has(name) and not any(shape.has(other) for other in usual):
            found[ours] = name
    unwanted = {"group", "split", *(("uri", "image") if _has_images(columns, shape) else ())}
    return replace(columns, **{ours: name for ours, name in found.items() if ours not in unwanted})


def without_absent(columns: Columns, may_lack: Collection[str], shape: Shape) -> Columns:
    """``columns`` without those of ``OPTIONAL`` that may be lacking, and are."""
    names = {ours: getattr(columns, ours) for ours in OPTIONAL}
    absent: dict[str, Any] = {
        ours: None for ours, name in names.items() if name in may_lack and not shape.has(name)
    }
    return replace(columns, **absent)


def _has_id(columns: Columns, shape: Shape) -> bool:
    return columns.id != USUAL_ID or shape.has(USUAL_ID)


def _has_images(columns: Columns, shape: Shape) -> bool:
    return any(getattr(columns, ours) or shape.has(ours) for ours in ("uri", "image"))


def resolve_columns(columns: Columns, shape: Shape, folder: Folder) -> Columns:
    """``columns`` with what was not asked for found by its usual name. Raises ``DataError`` naming what is
    missing."""
    shape.require(columns.id, "--columns.id NAME maps another")
    found: dict[str, str | None] = {}
    for ours, candidates in _DEFAULTS.items():
        asked = getattr(columns, ours)
        if asked is not None:
            shape.require(asked, f"--columns.{ours} NAME maps another")
        found[ours] = asked or next((name for name in candidates if shape.has(name)), None)
    found |= _images(columns, shape, found)
    if columns.page is None and found["page"] and not _holds_pages(shape, folder, found["page"]):
        logger.warning(
            "column %s is %s, not a page number, and is left aside; --columns.page NAME maps another",
            found["page"],
            shape.kind("page"),
        )
        found["page"] = None
    return Columns(id=columns.id, **found)


def _images(columns: Columns, shape: Shape, found: Mapping[str, str | None]) -> dict[str, str | None]:
    """uri or image: what was asked for, else a uri that is text, else embedded bytes. The other one is
    nobody's business."""
    uri, image = found["uri"], found["image"]
    if columns.uri:
        return {"uri": uri, "image": columns.image}
    if columns.image:
        return {"uri": None, "image": _embedded_column(columns.image, shape)}
    if uri and (image is None or is_text(shape.kind(uri)) or not _is_embedded(image, shape)):
        return {"uri": uri, "image": None}
    if image is None:
        raise DataError(
            f"catalog {shape.place} has neither a column uri nor image; --columns.uri NAME or "
            "--columns.image NAME maps one of its "
            f"columns: {', '.join(shape.names)}"
        )
    return {"uri": None, "image": _embedded_column(image, shape)}


def _is_embedded(name: str, shape: Shape) -> bool:
    kind = shape.kind(name)
    inner = field_type(pa.schema([pa.field("x", kind)]), "x.bytes")
    return is_bytes(kind) or (inner is not None and is_bytes(inner))


def _embedded_column(name: str, shape: Shape) -> str:
    """``name``, or what a struct ends in; raises ``DataError`` if it holds no bytes."""
    if _is_embedded(name, shape):
        shape.known_kinds(name)
        return name
    kind = bare(shape.kind(name))
    if is_text(kind):
        raise shape.refuse(
            name, f"bytes: if these are paths or URLs of images, --columns.uri {name} is for them"
        )
    if pt.is_struct(kind):
        fields = [f"{name}.{f.name}" for f in kind if is_bytes(f.type)]
        texts = [f"{name}.{f.name}" for f in kind if is_text(f.type)] if not fields else []
        paths = f"; if {texts[0]} names a file, --columns.uri {texts[0]} is for it" if texts else ""
        raise shape.refuse(
            name,
            f"bytes, or a struct with a field bytes; {' or '.join(fields) or 'none of its fields'} holds "
            f"bytes{paths}",
        )
    raise shape.refuse(name, "bytes")


def path_beside(image: str) -> str:
    """The field of paths beside the bytes of a struct that dataset libraries write."""
    return f"{image.removesuffix('.bytes')}.path"


def _holds_pages(shape: Shape, folder: Folder, name: str) -> bool:
    """Whether a column that nobody asked for is the page: numbers are, texts only if most of the first ones
    are page numbers. The others then end the run, as works would be taken for single pages without it."""
    kinds = [kind for _, kind in shape.kinds(name) if kind is not None]
    if not all(is_page(kind) for kind in kinds):
        return False
    texts = [
        entry
        for entry, kind in shape.kinds(name)
        if kind is not None and is_text(kind) and name not in hive_values(entry.path)
    ]
    if not texts:
        return True
    with open_file(folder, texts[0], shape.table) as file:
        first = next(file.iter_batches(batch_size=1000, columns=[name]), None)
    values = [] if first is None else leaf(first, name).to_pylist()
    texts_of = [value.strip() for value in values if value and value.strip()]
    return 2 * sum(bool(re.fullmatch(PAGE_TEXT, text)) for text in texts_of) >= len(texts_of)


def fields_of(
    columns: Columns, shape: Shape, heads: Sequence[HeadSpec], extras: Iterable[str] = ()
) -> dict[str, pa.Field]:
    """Every column in use with the type that it is read as; of an image its own."""
    fields = {columns.id: id_field(shape, columns.id)}
    if columns.uri:
        fields[columns.uri] = text_field(shape, columns.uri, "a string")
    elif columns.image:
        fields[columns.image] = pa.field(columns.image, shape.kind(columns.image))
        path = path_beside(columns.image)
        if all(kind is not None and is_text(kind) for _, kind in shape.kinds(path)):
            fields[path] = pa.field(path, pa.string())
    if columns.page:
        fields[columns.page] = page_field(shape, columns.page)
    for name in (columns.group, columns.split, columns.fingerprint, columns.updated_at, *extras):
        if name and name not in fields:
            fields[name] = value_field(shape, name)
    for head in heads:
        for name in head.label_columns:
            if name not in fields and shape.has(name):
                fields[name] = label_field(shape, name, head)
    return fields
