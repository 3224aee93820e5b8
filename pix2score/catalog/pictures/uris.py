"""How a catalog names pictures: relative to itself where they lie below it, so that both can move together;
by their full place elsewhere."""

from __future__ import annotations

import shlex

from pix2score.storage.folder import Folder
from pix2score.storage.quoting import literal

_MISREAD = r"[:\\]|^/|(^|/)\.\.?(/|$)|//"
"""In paths that as relative uris would be read as something else, or that a disk spells otherwise."""


def below(images: Folder, catalog: Folder) -> str | None:
    """Path of ``images`` below the folder of the catalog, with a slash at its end; empty if it is the same
    folder, None if it lies elsewhere."""
    top = catalog.uri.rstrip("/") + "/"
    place = images.uri.rstrip("/") + "/"
    return place.removeprefix(top) if place.startswith(top) else None


def uri_sql(images: Folder, catalog: Folder) -> str:
    """SQL of columns ``path`` and ``uri`` (what is given already): the uri for a catalog in a folder."""
    full = f"{literal(images.uri.rstrip('/') + '/')} || path"
    prefix = below(images, catalog)
    if prefix is None:
        return f"coalesce(uri, {full})"
    relative = f"{literal(prefix)} || path"
    return (
        f"coalesce(uri, CASE WHEN regexp_matches({relative}, '{_MISREAD}') THEN {full} ELSE {relative} END)"
    )


def next_command(images: Folder, catalog: str, folder: Folder, *, is_embedded: bool = False) -> str:
    """The command that scores what the catalog lists."""
    is_outside = not is_embedded and below(images, folder) is None
    root = f" --image-root {shlex.quote(images.uri)}" if is_outside else ""
    return f"python -m jobs.score --catalog {shlex.quote(catalog)}{root} --model MODEL --out SCORES"
